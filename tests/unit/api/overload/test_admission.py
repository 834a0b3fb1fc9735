"""What is refused and when those should come back, without a Redis: the last sample is made up."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from api.overload.admission import Admission
from api.overload.breaker import Policy, Record, State
from api.overload.lane_sampler import LaneSampler
from api.overload.lane_state import LaneState
from api.overload.queue_guard import QueueGuard
from api.overload.shared_breakers import Breakers
from common.errors import (
    DeadlineUnreachable,
    LaneFull,
    ModelUnavailable,
    NoWorker,
    QueueFull,
    QueueUnavailable,
    Refused,
)
from common.jobs.job import Job
from common.redis.connect import connect_async
from common.settings import Settings

BUSY = LaneState(waiting=(1000, 0, 500, 0), leased=10, workers=1, loaded=1, measured=10.0)


class Front:
    """Admission over a sample that the test makes up."""

    def __init__(self, state: LaneState, **settings: Any) -> None:
        chosen = Settings(**settings)
        client = connect_async("redis://127.0.0.1:1/0", chosen)
        self.guard = QueueGuard()
        self.drain = LaneSampler(client, ["echo"], 1000)
        self.drain.lanes = {"echo": state}
        self.drain.server_ms = 1_000_000
        self.drain.readable = True
        self.breakers = Breakers(client, Policy.of(chosen), ["echo"])
        self.admission = Admission(chosen, self.drain, self.breakers, self.guard)

    async def refusal(self, **job: Any) -> Refused | None:
        await self.admission.refresh()
        try:
            await self.admission.admit(Job("echo", "x", **job))
        except Refused as exc:
            return exc
        return None


def within(limits: dict[str, Any]) -> dict[str, Any]:
    """Its limits, in seconds from now, as points in time."""
    now = time.time()
    return {
        name: int((now + value) * 1000) if name.endswith("_ms") else value
        for name, value in limits.items()
    }


@pytest.mark.parametrize(
    ("job", "taken"),
    [
        ({}, True),
        ({"start_by_ms": 40}, False),  # twice as fast as measured it would take 50 s
        ({"start_by_ms": 70}, True),
        ({"deadline_ms": 40}, False),
        ({"deadline_ms": -5}, False),
        ({"priority": 5, "start_by_ms": 70}, True),
        ({"priority": 6, "start_by_ms": 70}, False),
        ({"priority": 9, "start_by_ms": 120}, True),
    ],
)
def test_only_what_would_surely_start_too_late_is_refused(job: Any, taken: bool) -> None:
    async def main() -> None:
        refusal = await Front(BUSY).refusal(**within(job))
        assert isinstance(refusal, DeadlineUnreachable) is not taken

    asyncio.run(main())


@pytest.mark.parametrize(
    ("tenants", "taken"),
    [
        (None, True),  # nobody has counted yet
        ({"ours": 1510}, False),  # alone
        ({"ours": 500, "flood": 1010}, True),  # (500 - 10 leased) / 20 a second are 25 s
        ({"flood": 1510}, True),
        ({"ours": 1010, "flood": 500}, False),
    ],
)
def test_what_other_tenants_have_waiting_is_not_held_against_a_deadline(
    tenants: Any, taken: bool
) -> None:
    async def main() -> None:
        refusal = await Front(replace(BUSY, tenants=tenants)).refusal(
            tenant="ours", **within({"start_by_ms": 40})
        )
        assert (refusal is None) is taken

    asyncio.run(main())


def test_a_rate_that_was_not_measured_refuses_nothing() -> None:
    async def main() -> None:
        state = LaneState(waiting=(1_000_000, 0, 0, 0), workers=1, loaded=1, estimated=1.0)
        assert await Front(state).refusal(**within({"start_by_ms": 1})) is None
        assert (
            await Front(BUSY, deadline_safety_factor=0).refusal(**within({"start_by_ms": 1}))
            is None
        )

    asyncio.run(main())


def test_it_says_when_the_same_deadline_could_be_met() -> None:
    async def main() -> None:
        refusal = await Front(BUSY).refusal(**within({"start_by_ms": 20}))
        assert refusal is not None
        assert refusal.retry_after_seconds == pytest.approx(33, abs=5)  # 50 - 20, and jitter
        assert "in about 100 s" in str(refusal)

    asyncio.run(main())


def test_nobody_to_serve_matters_only_where_nobody_is_started() -> None:
    async def main() -> None:
        scaled, fixed = Front(LaneState()), Front(LaneState(), scale_from_zero=False)
        assert await scaled.refusal() is None
        assert "no live worker" in (scaled.admission.notice("echo") or "")
        assert isinstance(await fixed.refusal(), NoWorker)
        served = Front(LaneState(workers=1), scale_from_zero=False)
        assert await served.refusal() is None, "its model may be loading still"
        assert served.admission.notice("echo") is None

    asyncio.run(main())


def test_a_tenant_that_fails_is_refused_alone() -> None:
    async def main() -> None:
        record = Record(State.OPEN, 1_000_000, 1_010_000, 1)
        front = Front(LaneState(workers=1, breakers={"acme": record.text()}))
        refusal = await front.refusal(tenant="acme")
        assert isinstance(refusal, ModelUnavailable)
        assert "with this tenant's jobs" in str(refusal)
        assert refusal.retry_after_seconds is not None
        assert 10 <= refusal.retry_after_seconds <= 13
        assert await front.refusal(tenant="beta") is None
        assert await front.refusal() is None

    asyncio.run(main())


def test_an_open_breaker_says_when_the_model_is_probed() -> None:
    async def main() -> None:
        record = Record(State.OPEN, since_ms=990_000, until_ms=1_020_000, openings=1)
        refusal = await Front(LaneState(workers=1, breakers={"": record.text()})).refusal()
        assert isinstance(refusal, ModelUnavailable)
        assert refusal.retry_after_seconds == pytest.approx(22.5, abs=2.6)

    asyncio.run(main())


def test_clients_of_a_full_lane_are_spread_over_the_time_in_which_places_become_free() -> None:
    async def main() -> None:
        front = Front(BUSY)
        await front.refusal()
        told = [front.admission.full(Job("echo", "x")) for _ in range(300)]
        assert all(isinstance(one, LaneFull) for one in told)
        seconds = [one.retry_after_seconds or 0 for one in told]
        assert 1 <= min(seconds) < 1.3
        assert 24 < max(seconds) < 38, "the 300th place is free in 30 s"
        more = [front.admission.full(Job("echo", "x")).retry_after_seconds for _ in range(2000)]
        assert max(one or 0 for one in more) <= 60, "told to come back within bounds"

    asyncio.run(main())


def test_nobody_is_sent_away_for_longer_than_the_lane_has_work() -> None:
    async def main() -> None:
        state = LaneState(waiting=(100, 0, 0, 0), workers=1, loaded=1, measured=10.0)
        front = Front(state)
        await front.refusal()
        told = [front.admission.full(Job("echo", "x")) for _ in range(1000)]
        assert max(one.retry_after_seconds or 0 for one in told) <= 5 * 1.25

    asyncio.run(main())


def test_without_a_rate_a_full_lane_says_five_seconds() -> None:
    async def main() -> None:
        front = Front(LaneState(waiting=(100, 0, 0, 0)))
        seconds = front.admission.full(Job("echo", "x")).retry_after_seconds
        assert seconds == pytest.approx(5.6, abs=0.7)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), QueueFull),
        (ReadOnlyError("You can't write against a read only replica."), QueueUnavailable),
        (ResponseError("MISCONF Redis is configured to save"), QueueUnavailable),
        (RedisConnectionError("gone"), QueueUnavailable),
        (ResponseError("ERR this job's message only"), None),
    ],
)
def test_after_a_failed_publish_work_is_refused_until_a_write_succeeds(
    error: Exception, kind: type[Refused] | None
) -> None:
    guard = QueueGuard()
    guard.publish_failed(error)
    assert guard.refusal is kind
    guard.sampled(None, began=1.0, now=1.1)
    assert guard.refusal is None


def test_a_server_that_says_no_is_believed_and_one_that_is_away_gets_a_moment() -> None:
    guard = QueueGuard()
    guard.sampled(OutOfMemoryError("command not allowed"), began=1.0, now=1.01)
    assert guard.refusal is QueueFull
    guard.sampled(None, 2.0, 2.0)
    guard.sampled(RedisConnectionError("refused"), began=3.0, now=3.0)
    guard.sampled(TimeoutError(), began=3.25, now=4.25)
    assert guard.refusal is None
    guard.sampled(TimeoutError(), began=4.5, now=5.5)
    assert guard.refusal is QueueUnavailable
