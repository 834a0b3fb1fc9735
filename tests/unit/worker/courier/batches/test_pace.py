"""Batches enqueue one script at a time, and leave Redis to others in between."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from common.jobs.job import Job
from common.settings import Settings
from worker.courier.batches.feeder import Feeder
from worker.courier.batches.pace import Pace


class Scripts:
    """Counts how many run at a time."""

    def __init__(self) -> None:
        self.running = self.most = self.calls = 0

    async def run(self, _name: str, _keys: object, args: list[Any]) -> list[int]:
        self.running += 1
        self.calls += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.001)
        self.running -= 1
        return [0] * sum(one == "echo" for one in args)


def test_the_feeders_of_a_courier_have_one_script_at_redis() -> None:
    async def run() -> Scripts:
        scripts, pace = Scripts(), Pace()
        feeders = []
        for _ in range(16):
            feeder = Feeder(cast("Any", None), Settings(), pace)
            feeder._scripts = cast("Any", scripts)
            feeders.append(feeder)
        await asyncio.gather(*(one.send([Job("echo", n) for n in range(150)]) for one in feeders))
        assert all(not one.refused for one in feeders)
        return scripts

    scripts = asyncio.run(run())
    assert scripts.most == 1
    assert scripts.calls == 32


def test_others_have_redis_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def run() -> None:
        pace = Pace()
        async with pace.turn():
            await asyncio.sleep(0.02)
        with pytest.raises(ConnectionError):
            async with pace.turn():
                raise ConnectionError
        async with pace.turn():
            pass

    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", noted)
    asyncio.run(run())
    assert pauses[0] == 0.02
    assert 0.01 <= pauses[1] <= 0.05, "half as long as the script took"
