"""`lanefleet bench` against real processes: what it tells, keeps and flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from api.cli.main import app
from tests.support.stack import ApiProcess, Stack

REQUESTS = 120


def bench(*words: str) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON."""
    done = CliRunner().invoke(app, ["bench", *words, "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, json.loads(done.stdout)


def fleet(stack: Stack, batch_ms: float) -> ApiProcess:
    """A fleet whose model takes so long for any batch."""
    model = {
        "handler": "tests.support.handlers:Paced",
        "max_batch": 8,
        "options": {"batch_ms": batch_ms},
    }
    path = Path(stack.folder) / f"models-{batch_ms:g}.yaml"
    path.write_text(yaml.safe_dump({"models": {"paced": model}}))
    stack.environment["LANEFLEET_CATALOG"] = str(path)
    stack.worker("")
    return stack.api("")


def test_a_run_of_so_many_requests_tells_batches_and_errors(stack: Stack, tmp_path: Path) -> None:
    stack.worker()
    api, kept = stack.api(), tmp_path / "run.json"
    words = ["--url", api.url, "--requests", str(REQUESTS), "--clients", "4,8"]
    status, said = bench(*words, "--save", str(kept))
    assert status == 0
    assert said["about"]["model"] == "echo"
    assert said["about"]["generator_limit_per_second"] > 0
    for stage in said["stages"]:
        assert stage["errors"] == {}
        assert stage["items"] == REQUESTS
        assert stage["reused"] == 0
        assert 0 < stage["p50_ms"] <= stage["p95_ms"] <= stage["p99_ms"]
        assert max(map(int, stage["batches"]), default=1) <= stage["clients"]
    assert json.loads(kept.read_text())["stages"][0]["clients"] == 4

    words = ["--url", api.url, "--requests", "10"]
    status, said = bench(*words, "--clients", "2", "--compare", str(kept))
    assert (status, said["changes"]) == (2, []), "no number of clients in common"

    status, said = bench(*words, "--params", '{"sleep_ms": -1}')
    assert status == 1, "no result came"
    assert "failed: invalid_input" in said["stages"][0]["errors"]


@pytest.mark.slow
def test_a_planted_slowdown_is_flagged_and_a_repeat_is_not(stack: Stack, tmp_path: Path) -> None:
    """20 % more sleep in every batch; 100 ms of it, so that a busy machine adds little."""
    words = ["--clients", "8", "--duration", "20", "--model", "paced"]
    kept, found = str(tmp_path / "run.json"), {}
    api = fleet(stack, 100)
    status, _ = bench("--url", api.url, *words, "--save", kept)
    assert status == 0
    found["repeat"] = bench("--url", api.url, *words, "--compare", kept)
    for process in stack.processes:
        process.stop()
    api = fleet(stack, 120)
    found["slower"] = bench("--url", api.url, *words, "--compare", kept)
    for name, (status, said) in found.items():
        for one in said["changes"]:
            print(name, one["figure"], f"{one['worse']:.3f}", one["verdict"])
        assert status == (name == "slower"), name


@pytest.mark.slow
def test_a_cold_start_is_timed_from_the_process_to_its_first_result() -> None:
    status, said = bench("--mode", "cold", "--model", "echo", "--times", "2")
    assert status == 0
    assert len(said["starts"]) == 2
    assert all(one["first_result"] > 0 for one in said["starts"])
