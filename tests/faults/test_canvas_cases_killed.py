"""Each case of the canvas table while the worker that has its first step is killed.

It is held before it stores a result, or with an entry of the outbox read and not yet sent on.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from common.redis.embedded_server import RedisServer
from common.redis.keys import OUTBOX
from tests.support.canvases import CASES, FAILURES, SECONDS, Client
from tests.support.lanes import LANE, assert_lane_is_empty
from tests.support.stack import Process, Stack, wait_until
from worker.celery_integration.continuations import GROUP

SHORT = [("continue", "a chord of ours with a body of ours")]


def _cases(names: object) -> list[object]:
    return [
        pytest.param(hold, name, marks=() if (hold, name) in SHORT else pytest.mark.slow)
        for hold in ("finish", "continue")
        for name in names  # type: ignore[attr-defined]
    ]


@pytest.fixture(scope="module")
def client(
    embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    stack = Stack(embedded_redis.url, tmp_path_factory.mktemp("killed"))
    stack.redis.flushall()
    made = None
    try:
        made = Client(stack, LANEFLEET_LEASE_SECONDS="1")
        yield made
    finally:
        if made is not None:
            made.stock.kill()
            made.stock.wait()
        stack.close()


def _held_worker(client: Client, hold: str) -> Process:
    held = client.stack.folder / "held"
    held.unlink(missing_ok=True)
    environment = {"HOLD": hold, "HELD_FILE": str(held)}
    return client.stack._start("worker", ["-m", "tests.support.held_worker"], LANE, environment)


def _kill_where_it_holds(client: Client, holder: Process, hold: str, ready: object) -> bool:
    """Whether it came to hold before all was done without it."""
    held = client.stack.folder / "held"
    wait_until(lambda: held.exists() or ready(), SECONDS, f"it to hold or end, {hold}")  # type: ignore[operator]
    reached = held.exists()
    if reached and hold == "continue":
        pending = client.stack.redis.xpending(OUTBOX, GROUP)
        assert pending["pending"], "the entry is in hand"  # type: ignore[index]
    holder.kill()
    return reached


def _assert_nothing_is_left(client: Client) -> None:
    client.await_quiet()
    assert_lane_is_empty(client.stack)
    redis = client.stack.redis
    assert [key for key in redis.scan_iter("lf:job:*") if redis.ttl(key) < 0] == []


@pytest.mark.parametrize(("hold", "name"), _cases(CASES))
def test_a_canvas_brings_the_same_under_a_kill(client: Client, hold: str, name: str) -> None:
    make, expected = CASES[name]
    before, client.jobs = client.stack.stats(LANE).get("succeeded", 0), 0
    holder = _held_worker(client, hold)
    result = make(client).apply_async()
    reached = _kill_where_it_holds(client, holder, hold, result.ready)
    other = client.stack.worker(LANE)
    assert result.get(timeout=SECONDS) == expected
    _assert_nothing_is_left(client)
    other.kill()
    assert client.stack.stats(LANE)["succeeded"] - before == client.jobs, "one result each"
    assert reached or hold == "continue", "it was killed with a job in hand"
    print(f"{name}: {'killed' if reached else 'nothing to continue'}")
    if (hold, name) in SHORT:
        assert reached


@pytest.mark.parametrize(("hold", "name"), _cases(FAILURES))
def test_what_fails_is_raised_under_a_kill_too(client: Client, hold: str, name: str) -> None:
    holder = _held_worker(client, hold)
    result = FAILURES[name](client).apply_async()
    reached = _kill_where_it_holds(client, holder, hold, result.ready)
    other = client.stack.worker(LANE)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the types are made by the client
        result.get(timeout=SECONDS)
    assert caught.type.__name__ not in ("TimeoutError", "AssertionError")
    _assert_nothing_is_left(client)
    other.kill()
    print(f"{name}: {'killed' if reached else 'not held'}")
