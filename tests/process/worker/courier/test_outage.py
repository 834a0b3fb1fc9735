"""A courier whose Redis is away: it says so once for all of its parts, and once that it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from redis.exceptions import ConnectionError as RedisConnectionError

from common.jobs.system_lanes import BATCHES
from common.redis import trouble
from common.settings import Settings
from worker.courier import event_reader, lane_service
from worker.courier.batches.runner import BatchRunner
from worker.courier.event_reader import EventReader
from worker.courier.jobs import Done, Runner
from worker.courier.lane_service import LaneService

CALLS = 60


class Away:
    """Redis, or leases in it: every call fails, so many times."""

    lane = BATCHES

    def __init__(self) -> None:
        self.left = CALLS

    def __getattr__(self, _name: str) -> Any:
        async def call(*_args: object, **_options: object) -> list[Any]:
            await asyncio.sleep(0)
            self.left -= 1
            if self.left >= 0:
                raise RedisConnectionError("Timeout connecting to server")
            return []

        return call


class Idle(Runner):
    async def run(self, _job: object) -> Done:
        return Done()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (lane_service, event_reader):
        for name in ("_REDIS_PAUSE_SECONDS", "_PAUSE_SECONDS", "_IDLE_SECONDS"):
            monkeypatch.setattr(module, name, 0.001, raising=False)
    monkeypatch.setattr(trouble, "_QUIET_SECONDS", 0.0)
    trouble.TROUBLE._met.clear()
    yield
    trouble.TROUBLE._met.clear()


def lines(run: Any, until: Any) -> list[str]:
    """The events of the log, while this runs until it is so."""

    async def whole() -> None:
        task = asyncio.create_task(run)
        async with asyncio.timeout(20):
            while not until():
                await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with structlog.testing.capture_logs() as found:
        asyncio.run(whole())
    return [str(one["event"]) for one in found]


def test_a_lanes_service_says_an_outage_once_and_that_it_is_over() -> None:
    away: Any = Away()
    service = LaneService(away, Idle(), 0.001, 0.001)
    said = lines(service.run(asyncio.Event()), lambda: away.left < -CALLS)
    assert said == ["redis_in_trouble", "redis_answers_again"]


def test_the_reader_of_events_says_it_once() -> None:
    away: Any = Away()
    reader = EventReader(away, "me", Settings(), away, away, lambda: None)
    assert lines(reader._run(), lambda: away.left < CALLS / 2) == ["redis_in_trouble"]


def test_those_who_look_after_batches_say_it_once() -> None:
    away: Any = Away()
    runner = BatchRunner(away, away, away, Settings())
    looking = runner._forever(runner.revive, 0.001)
    assert lines(looking, lambda: away.left < CALLS / 2) == ["redis_in_trouble"]
