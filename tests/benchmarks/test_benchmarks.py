"""Each benchmark once, with few jobs, so that none of them rots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.benchmarks import compare, measure
from tests.benchmarks.__main__ import NAMES
from tests.benchmarks.arena import Arena, open_arena
from tests.benchmarks.arms import ROLES
from tests.benchmarks.report import Table, Target, machine, show, write
from tests.support.stack import ROOT

SLOW = pytest.mark.slow
pytestmark = pytest.mark.skipif(not measure.SUPPORTED, reason="reads /proc")


@pytest.fixture(scope="module")
def one_arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """A Redis for all of them; BullMQ only where it is installed already."""
    folder = tmp_path_factory.mktemp("bench")
    with open_arena(folder, folder, runs=1, quick=True, install_peers=False) as arena:
        yield arena


@pytest.fixture
def arena(one_arena: Arena) -> Iterator[Arena]:
    """The same, empty after each benchmark."""
    yield one_arena
    one_arena.close()


@pytest.mark.timeout(300)  # these load torch in five processes
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=SLOW if name in ("efficiency", "generation") else ())
        for name in NAMES
    ],
)
def test_a_benchmark_runs_and_fills_its_table(arena: Arena, name: str) -> None:
    table = import_module(f"tests.benchmarks.{name}").run(arena)
    assert table.name == name
    assert table.rows or table.notes, "neither a figure nor why there is none"
    for row in table.rows:
        assert len(row) == len(table.columns)
    assert table.markdown().startswith(f"### {name}: ")


@pytest.mark.timeout(180)  # starts three workers and three APIs
def test_a_comparison_of_a_tree_with_itself_fills_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "compared.json"
    status = compare.main([str(ROOT), "--head", str(ROOT), "--quick", "--json", str(kept)])
    found = json.loads(kept.read_text())
    over = any(one["verdict"] == "MORE" for one in found["findings"])
    assert status == int(over)
    judged = [(one["benchmark"], one["role"]) for one in found["findings"]]
    assert judged == [(name, role) for name, roles in ROLES.items() for role in roles]
    assert all(one["base_us"] > 0 < one["head_us"] for one in found["findings"])
    assert all(len(one["pairs"]) == 1 for one in found["pairs"].values())
    assert "| latency | worker |" in capsys.readouterr().out


def test_a_comparison_with_no_such_tree_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["no-such-revision", "--quick"]) == 2
    assert "neither a tree of this project nor a revision" in capsys.readouterr().err


def test_a_report_keeps_every_run_and_every_verdict(tmp_path: Path) -> None:
    goals = [
        Target(1, "at least 30x", 31.0, 30),
        Target(1, "at most 45 us", 50.0, 45, at_most=True),
        Target(4, "accepted", None, 25_000),
    ]
    table = Table("drain", "some", ["", "jobs/s"], [["ours", 21_000.0]], goals)
    table.samples = {"ours": [{"jobs_per_second": 21_000.0}]}
    kept = json.loads(write(tmp_path, machine("7.0.0"), [table]).read_text())
    assert [one["verdict"] for one in kept["benchmarks"][0]["targets"]] == [
        "met",
        "missed",
        "not measured",
    ]
    assert kept["benchmarks"][0]["samples"]["ours"][0]["jobs_per_second"] == 21_000.0
    assert "| ours | 21,000 |" in (tmp_path / "benchmarks.md").read_text()


def test_numbers_are_shown_with_the_digits_they_deserve() -> None:
    assert [show(one) for one in (12_345.6, 45.67, 1.234, None, "7 %")] == [
        "12,346",
        "45.7",
        "1.23",
        "-",
        "7 %",
    ]
