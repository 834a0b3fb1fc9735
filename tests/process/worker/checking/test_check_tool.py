"""The report of `lanefleet check`: what passes, what is refused and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.catalog import load_catalog
from common.errors import ConfigurationError
from common.settings import Settings
from worker.models.weights import set_base
from worker.residency.compiled import CompiledNetworks
from worker.tools import check
from worker.tools.check import run


def settings(folder: Path, monkeypatch: pytest.MonkeyPatch, **models: Any) -> Settings:
    entries = {
        name: {"handler": "tests.support.moded:Moded", "input": "text", "max_batch": 2, **body}
        for name, body in models.items()
    }
    catalog = folder / "models.yaml"
    catalog.write_text(yaml.safe_dump({"models": entries}))
    monkeypatch.setenv("LANEFLEET_CATALOG", str(catalog))
    monkeypatch.setenv("LANEFLEET_STATE_DIR", str(folder / "state"))
    set_base(folder)
    return Settings()


def silent(_doing: str, _done: float, _total: float) -> None:
    pass


def test_a_slow_and_wrong_mode_is_refused_twice_and_judged_on_the_held_out_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts.txt").write_text("\n".join("x" * n for n in range(1, 41)))
    bad = {"precision": "bf16", "samples": "texts.txt", "options": {"error": 1.0, "spin_ms": 5}}
    made = settings(tmp_path, monkeypatch, bad=bad)
    report = run({"models": ["bad"], "seconds": 2.0}, made, silent)
    assert [one["batch"] for one in report.rows] == [1, 2]
    assert report.measure == "min cosine"
    assert report.agreement is not None
    assert report.agreement < 0.5
    assert 10 <= report.samples <= 30
    assert report.ratio is not None
    assert report.ratio < 0.5
    first, second = (one.why for one in report.refused)
    assert "below its tolerance 0.99" in first
    assert "the speed of torch fp32 on this machine" in second
    assert len(list((tmp_path / "state" / "verdicts").glob("*.json"))) == 1


@pytest.mark.slow
def test_a_table_compares_a_model_with_the_one_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = settings(
        tmp_path, monkeypatch, right={}, other={"precision": "int8", "reference": "right"}
    )
    report = run({"models": [], "all_backends": True}, made, silent)
    (row,) = report.rows
    assert (row["model"], row["precision"], row["verdict"]) == ("other", "int8", "passes")
    assert row["agreement"] == 1
    assert "judged on the model's example alone" in " ".join(report.notes)


@pytest.mark.slow
def test_samples_that_are_not_there_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = settings(tmp_path, monkeypatch, m={"samples": "nowhere"})
    report = run({"models": ["m"]}, made, silent)
    assert "there is no nowhere" in report.refused[0].why
    with pytest.raises(ConfigurationError, match="name one model"):
        run({"models": ["m", "m"]}, made, silent)


def test_the_table_has_a_cell_for_what_is_not_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = settings(tmp_path, monkeypatch, right={})
    catalog = load_catalog(made.catalog)
    spec = catalog["right"].model_copy(update={"handler": "minilm", "weights": "none"})
    pairs = check._variants(spec, catalog)
    [(compiled, eager)] = [pair for pair in pairs if pair[0].compiled]
    assert (compiled.backend, compiled.precision, eager.compiled) == ("torch", "fp32", False)
    networks = CompiledNetworks(made.state_dir)
    verdict = check._of_compiled(compiled, eager, networks, made, "cpu")
    row = check._row(compiled, verdict, None)
    assert (row["backend"], row["verdict"], row["ratio"]) == (
        "torch:compiled",
        "not compiled",
        None,
    )
    assert "lanefleet compile right" in verdict.trouble
