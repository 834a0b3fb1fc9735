"""Ctrl-C during a bench: what was finished is told and kept."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.cli.bench import command, run
from api.cli.bench.figures import Stage
from api.cli.bench.generator import Tally
from api.cli.bench.meter import Used
from api.cli.bench.pooling import Turn
from api.cli.bench.run import Outcome, Plan
from api.cli.main import app
from api.client import Client

PLAN = Plan("http://127.0.0.1:9", "m", "text", (1, 8, 64), seconds=1.0, warm_seconds=0.0)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """As in a terminal; tests that run in the background are started without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


async def no_limit(*_args: object) -> float:
    return 100.0


@pytest.mark.parametrize("done", [0, 1, 2])
def test_the_finished_stages_are_told(monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    async def turn(_plan: Plan, _client: Client, clients: int) -> Turn:
        if PLAN.clients.index(clients) == done:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        return Turn(Tally(array("d", [0.5]), array("d", [2.0])), Used(0.0, 1.0))

    monkeypatch.setattr(run, "limit", no_limit)
    monkeypatch.setattr(run, "_turn", turn)
    told: list[Stage] = []
    with Client(PLAN.url) as client:
        outcome = run.run(PLAN, client, told.append)
    assert outcome.interrupted
    assert [one.clients for one in outcome.stages] == list(PLAN.clients[:done])
    assert outcome.stages == told


def bench(monkeypatch: pytest.MonkeyPatch, outcome: Outcome, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(command, "run", lambda *_args: outcome)
    monkeypatch.setattr(command, "choose_model", lambda *_args: ("m", "text"))
    done = CliRunner().invoke(app, ["bench", "--url", PLAN.url, *words])
    return done.exit_code, done.stdout, done.stderr


def test_what_is_told_is_kept_and_says_that_it_is_not_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage = Stage("m", 1, 2.0, 20, 1.0, 2.0, 3.0, 4.0)
    kept = tmp_path / "run.json"
    words = ("--save", str(kept), "--json")
    status, said, _ = bench(monkeypatch, Outcome([stage], 9.0, interrupted=True), *words)
    assert status == 130
    assert [one["clients"] for one in json.loads(said)["stages"]] == [1]
    assert json.loads(kept.read_text())["about"]["interrupted"] is True
    status, said, _ = bench(monkeypatch, Outcome([stage], 9.0), *words)
    assert status == 0
    assert "interrupted" not in json.loads(kept.read_text())["about"]


def test_with_nothing_finished_a_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = tmp_path / "run.json"
    outcome = Outcome([], 0.0, interrupted=True)
    status, said, error = bench(monkeypatch, outcome, "--save", str(kept))
    assert (status, said) == (130, "")
    assert "interrupted before a stage was finished" in error
    assert not kept.exists()
