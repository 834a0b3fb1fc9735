"""Each case of the canvas table while the worker that has its first step is killed.

It is held before it stores a result, or with an entry of the outbox read and not yet sent on.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from celery import Signature, chord
from celery.result import AsyncResult

from common.redis.embedded_server import RedisServer
from common.redis.keys import OUTBOX
from tests.support.canvases import CASES, FAILURES, SECONDS, Client, running_client
from tests.support.lanes import LANE, assert_lane_is_empty
from tests.support.stack import Process, wait_until
from worker.celery_integration.continuations import GROUP

SHORT = [("continue", "a chord of ours with a body of ours")]
Check = Callable[[], None]
"""Waits for what callbacks must bring."""

NEVER_HELD = {
    "finish": {"stock fails before ours"},
    "continue": {
        "one job",
        "stock then ours",
        "a group of ours",
        "a group of both",
        "stock then a group of ours",
        "a chord of stock tasks with a body of ours",
        "a group of groups",
        "ours fails",
        "ours fails last in a chain",
        "stock fails before ours",
    },
}
"""No job of ours runs, or none leads to anything."""


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
    folder = tmp_path_factory.mktemp("killed")
    with running_client(embedded_redis.url, folder, LANEFLEET_LEASE_SECONDS="1") as made:
        yield made


def _held_worker(client: Client, hold: str) -> Process:
    held = client.stack.folder / "held"
    held.unlink(missing_ok=True)
    environment = {"HOLD": hold, "HELD_FILE": str(held)}
    return client.stack._start("worker", ["-m", "tests.support.held_worker"], LANE, environment)


def _kill(client: Client, holder: Process, hold: str, ready: Callable[[], bool] | None) -> None:
    """Where it holds; with `ready`, which is for who never comes to hold, when all was done."""
    held = client.stack.folder / "held"
    if ready is not None:
        wait_until(ready, SECONDS, "the end without a hold")
        assert not held.exists(), f"it came to hold: {hold}"
    else:
        wait_until(held.exists, SECONDS, f"it to hold: {hold}")
        if hold == "continue":
            pending = client.stack.redis.xpending(OUTBOX, GROUP)
            assert pending["pending"], "the entry is in hand"  # type: ignore[index]
    holder.kill()


def _assert_nothing_is_left(client: Client) -> None:
    redis = client.stack.redis

    def live() -> list[bytes]:
        return [key for key in redis.scan_iter("lf:job:*") if redis.ttl(key) == -1]

    # A chord fails with its first part; the others may still be leased to who was killed.
    wait_until(lambda: not live(), SECONDS, "the end of every job")
    client.await_quiet()
    assert_lane_is_empty(client.stack)


@pytest.mark.parametrize(("hold", "name"), _cases(CASES))
def test_a_canvas_brings_the_same_under_a_kill(client: Client, hold: str, name: str) -> None:
    make, expected = CASES[name]
    before, client.jobs = client.stack.stats(LANE).get("succeeded", 0), 0
    holder = _held_worker(client, hold)
    result = make(client).apply_async()
    _kill(client, holder, hold, result.ready if name in NEVER_HELD[hold] else None)
    other = client.stack.worker(LANE)
    assert result.get(timeout=SECONDS) == expected
    _assert_nothing_is_left(client)
    other.kill()
    assert client.stack.stats(LANE)["succeeded"] - before == client.jobs, "one result each"


@pytest.mark.parametrize(("hold", "name"), _cases(FAILURES))
def test_what_fails_is_raised_under_a_kill_too(client: Client, hold: str, name: str) -> None:
    holder = _held_worker(client, hold)
    result = FAILURES[name](client).apply_async()
    _kill(client, holder, hold, result.ready if name in NEVER_HELD[hold] else None)
    other = client.stack.worker(LANE)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the types are made by the client
        result.get(timeout=SECONDS)
    assert caught.type.__name__ not in ("TimeoutError", "AssertionError")
    _assert_nothing_is_left(client)
    other.kill()


def _linked(client: Client) -> Check:
    key = uuid.uuid4().hex
    links = [client.task("note", key=key), client.task("note", key=key), client.infer()]
    result = client.infer("linked").apply_async(link=links)

    def check() -> None:
        assert result.get(timeout=SECONDS) == "linked"
        assert client.await_noted(key, 2) == ["linked"] * 2
        children = wait_until(lambda: AsyncResult(result.id).children, SECONDS, "children")
        assert [one.get(timeout=SECONDS) for one in children] == ["linked"] * 3

    return check


def _bad(client: Client) -> Signature:
    return client.infer("bad", params={"fail": "why"})


def _errbacks(client: Client) -> Check:
    links = [client.task("refused"), client.task("told")]
    result = _bad(client).apply_async(link_error=links)

    def check() -> None:
        for key in ("refused", "told"):
            wait_until(lambda k=key: client.noted(k), SECONDS, key)
            assert [one.split(" ")[0] for one in client.noted(key)] == [result.id]
            client.stack.redis.delete(f"stock:{key}")

    return check


def _errback_is_a_job(client: Client) -> Check:
    errback = client.infer().set(task_id=uuid.uuid4().hex)
    result = _bad(client).apply_async(link_error=errback)

    def check() -> None:
        assert AsyncResult(errback.options["task_id"]).get(timeout=SECONDS) == result.id

    return check


def _errbacks_are_canvases(client: Client) -> Check:
    key, parts, body = (uuid.uuid4().hex for _ in range(3))
    steps = client.task("note", key=key) | client.infer() | client.task("note", key=key)
    counted = chord([client.task("note", key=parts)], client.task("note", key=body))
    result = _bad(client).apply_async(link_error=[steps, counted])

    def check() -> None:
        assert client.await_noted(key, 2) == [result.id] * 2
        assert client.await_noted(body, 1) == [str([result.id])]
        assert client.noted(parts) == [result.id]

    return check


def _children(client: Client) -> Check:
    result = (client.infer(1) | client.infer() | client.infer()).apply_async()

    def check() -> None:
        assert result.get(timeout=SECONDS) == 1
        steps = [result.parent.parent, result.parent, result]
        metas = [one._get_task_meta() for one in steps]
        assert [[child.id for child in one["children"]] for one in metas] == [
            [steps[1].id],
            [steps[2].id],
            [],
        ]

    return check


CALLBACKS: dict[str, Callable[[Client], Check]] = {
    "callbacks": _linked,
    "errbacks of either style": _errbacks,
    "an errback is a job": _errback_is_a_job,
    "errbacks are canvases": _errbacks_are_canvases,
    "children": _children,
}


@pytest.mark.parametrize(("hold", "name"), _cases(CALLBACKS))
def test_callbacks_come_once_under_a_kill_too(client: Client, hold: str, name: str) -> None:
    """At least once is promised; once is what comes, as the outbox's entry goes with the push."""
    holder = _held_worker(client, hold)
    check = CALLBACKS[name](client)
    _kill(client, holder, hold, None)
    other = client.stack.worker(LANE)
    check()
    _assert_nothing_is_left(client)
    other.kill()
