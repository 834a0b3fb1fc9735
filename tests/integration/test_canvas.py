"""Celery's canvas over lanes and a stock worker, as sent by a client that knows nothing of ours."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, Signature, chain, chord, group, signature
from celery.exceptions import ChordError, TaskRevokedError
from celery.result import AsyncResult, GroupResult, result_from_tuple

from common.redis.embedded_server import RedisServer
from tests.support.lanes import RecordedLane
from tests.support.stack import ROOT, Stack, wait_until

LANE = "recorder"
SECONDS = 30


class Client:
    """A stock client, a stock worker and a worker of ours over one Redis."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.lane = RecordedLane.on(stack)
        self.worker = stack.worker(LANE)
        self.app = Celery("client", broker=stack.redis_url, backend=stack.redis_url)
        self.app.set_current()
        with (stack.folder / "stock.log").open("w") as log:
            self.stock = subprocess.Popen(
                [
                    *(sys.executable, "-m", "celery", "-A", "tests.support.stock_celery", "worker"),
                    *("-P", "solo", "-l", "INFO", "--without-gossip", "--without-mingle"),
                ],
                env={**os.environ, "STOCK_REDIS_URL": stack.redis_url},
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    def infer(self, value: Any = ..., *, queue: str | None = LANE, **kwargs: Any) -> Signature:
        """A job of the lane; without a value its input comes from before it."""
        if value is not ...:
            kwargs["input"] = value
        options = {"queue": queue} if queue else {}
        return self.app.signature("infer", kwargs={"model": LANE, **kwargs}, options=options)

    def task(self, name: str, *args: Any, **kwargs: Any) -> Signature:
        """A task of the stock worker."""
        return self.app.signature(f"stock.{name}", args=args, kwargs=kwargs)

    def noted(self, key: str) -> list[str]:
        """What the stock worker wrote down."""
        return [one.decode() for one in self.stack.redis.lrange(f"stock:{key}", 0, -1)]  # type: ignore[union-attr]

    def await_noted(self, key: str, count: int) -> list[str]:
        """Wait until so much was written down, and look that it stays so much."""
        wait_until(lambda: len(self.noted(key)) >= count, SECONDS, f"{count} of {key}")
        return self.noted(key)

    def await_quiet(self) -> None:
        """Nothing is left in the outbox, and nothing leads anywhere."""
        redis = self.stack.redis
        wait_until(lambda: not redis.xlen("lf:outbox"), SECONDS, "an empty outbox")
        assert list(redis.scan_iter("lf:next:*")) == []
        assert not redis.exists("lf:outbox:failed")


@pytest.fixture(scope="module")
def client(
    embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    stack = Stack(embedded_redis.url, tmp_path_factory.mktemp("canvas"))
    stack.redis.flushall()
    made = None
    try:
        made = Client(stack)
        yield made
    finally:
        if made is not None:
            made.stock.kill()
            made.stock.wait()
        stack.close()


Made = Callable[[Client], Any]
"""Makes a canvas."""

CASES: dict[str, tuple[Made, Any]] = {
    "one job": (lambda c: c.infer("a"), "a"),
    "ours then ours": (lambda c: c.infer("a") | c.infer(), "a"),
    "ours then stock": (lambda c: c.infer(2) | c.task("add", 3), 5),
    "stock then ours": (lambda c: c.task("add", 2, 3) | c.infer(), 5),
    "ours, stock, ours": (lambda c: c.infer(2) | c.task("add", 3) | c.infer(), 5),
    "stock, ours, stock": (lambda c: c.task("add", 1) | c.infer() | c.task("add", 4), 5),
    "ten of ours": (lambda c: chain(c.infer(7), *[c.infer() for _ in range(9)]), 7),
    "an immutable step keeps its input": (
        lambda c: c.infer("a") | c.infer("b").set(immutable=True),
        "b",
    ),
    "a step picks a part": (lambda c: c.infer({"x": [1, {"y": 2}]}) | c.infer(pick="/x/1/y"), 2),
    "a step of the queue's own model": (
        lambda c: c.infer("a") | c.app.signature("infer", queue=LANE),
        "a",
    ),
    "a group of ours": (lambda c: group(c.infer(n) for n in range(4)), [0, 1, 2, 3]),
    "a group of both": (lambda c: group(c.infer(1), c.task("add", 2), c.infer(3)), [1, 2, 3]),
    "a group of chains": (
        lambda c: group(c.infer(1) | c.task("add", 1), c.task("add", 5) | c.infer()),
        [2, 5],
    ),
    "ours then a group": (lambda c: c.infer(2) | group(c.task("add", 1), c.infer()), [3, 2]),
    "stock then a group of ours": (
        lambda c: c.task("add", 2) | group(c.infer(), c.infer()),
        [2, 2],
    ),
    "a chord of ours with a stock body": (
        lambda c: chord([c.infer(n) for n in range(5)], c.task("total")),
        10,
    ),
    "a chord of ours with a body of ours": (
        lambda c: chord([c.infer(n) for n in range(3)], c.infer()),
        [0, 1, 2],
    ),
    "a chord of stock tasks with a body of ours": (
        lambda c: chord([c.task("add", n) for n in range(3)], c.infer()),
        [0, 1, 2],
    ),
    "a chord of both": (
        lambda c: chord([c.infer(1), c.task("add", 2), c.infer(3)], c.task("total")),
        6,
    ),
    "a chord of one": (lambda c: chord([c.infer(1)], c.task("total")), 1),
    "a chord of chains": (
        lambda c: chord(
            [c.infer(1) | c.task("add", 1), c.task("add", 3) | c.infer()], c.task("total")
        ),
        5,
    ),
    "a chord of chains that end with ours": (
        lambda c: chord([c.task("add", 1) | c.infer(), c.infer(2) | c.infer()], c.infer()),
        [1, 2],
    ),
    "a group then ours, which is a chord": (
        lambda c: group(c.infer(1), c.infer(2)) | c.infer(),
        [1, 2],
    ),
    "a group then stock": (lambda c: group(c.infer(1), c.task("add", 2)) | c.task("total"), 3),
    "a chord in a chain": (
        lambda c: (
            c.infer(1) | chord([c.task("add", 1), c.task("add", 2)], c.task("total")) | c.infer()
        ),
        5,
    ),
    "a chord whose body is a chain": (
        lambda c: chord([c.infer(1), c.infer(2)], c.task("total") | c.infer() | c.task("add", 1)),
        4,
    ),
    "a chord in a chord": (
        lambda c: chord(
            [chord([c.infer(1), c.infer(2)], c.task("total")), c.infer(4)], c.task("total")
        ),
        7,
    ),
    "a group of groups": (
        lambda c: group(group(c.infer(1), c.infer(2)), c.infer(3)),
        [1, 2, 3],
    ),
    "a chain of groups": (
        lambda c: group(c.infer(1), c.infer(2)) | group(c.infer(), c.task("total")),
        [[1, 2], 3],
    ),
    "map of a stock task after ours": (lambda c: c.infer([1, 2]) | c.task("total"), 3),
}


@pytest.mark.parametrize("name", CASES)
def test_a_canvas_brings_what_celery_brings(client: Client, name: str) -> None:
    make, expected = CASES[name]
    result = make(client).apply_async()
    assert result.get(timeout=SECONDS) == expected
    client.await_quiet()


FAILURES: dict[str, Made] = {
    "ours fails": lambda c: c.infer("x", params={"fail": "why"}),
    "ours fails first in a chain": lambda c: (
        c.infer("x", params={"fail": "why"}) | c.task("add", 1)
    ),
    "ours fails before a group": lambda c: (
        c.infer("x", params={"fail": "why"}) | group(c.infer(), c.task("add", 1) | c.infer())
    ),
    "ours fails long before a group": lambda c: (
        c.infer("x", params={"fail": "why"}) | c.infer() | group(c.infer(), c.infer())
    ),
    "a group is the body of a chord after what fails": lambda c: (
        c.infer("x", params={"fail": "why"})
        | chord([c.infer(), c.infer()], group(c.infer(), c.infer()))
    ),
    "ours fails in a chord before a group": lambda c: chord(
        [c.infer(1, params={"fail": "why"}), c.infer(2)], group(c.infer(), c.infer())
    ),
    "ours fails last in a chain": lambda c: c.task("add", 1) | c.infer(params={"fail": "why"}),
    "stock fails before ours": lambda c: c.task("fail") | c.infer(),
    "stock fails after ours": lambda c: c.infer(1) | c.task("fail"),
    "ours fails in a chord": lambda c: chord(
        [c.infer(1), c.infer(2, params={"fail": "why"})], c.task("total")
    ),
    "stock fails in a chord of both": lambda c: chord([c.infer(1), c.task("fail")], c.infer()),
    "the body of a chord fails": lambda c: chord([c.infer(1)], c.infer(params={"fail": "why"})),
    "ours fails in a chain in a chord": lambda c: chord(
        [c.infer(1, params={"fail": "why"}) | c.task("add", 1), c.infer(2)], c.task("total")
    ),
    "a step has two inputs": lambda c: c.infer(1) | c.infer("mine"),
    "a part that is not there": lambda c: c.infer({"a": 1}) | c.infer(pick="/b"),
    "a step for another model": lambda c: c.infer(1) | c.infer(model="another"),
    "too many positions": lambda c: c.infer(1) | c.app.signature("infer", args=(2, 3), queue=LANE),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_fails_in_a_canvas_is_raised_where_it_is_waited_for(client: Client, name: str) -> None:
    result = FAILURES[name](client).apply_async()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the types are made by the client
        result.get(timeout=SECONDS)
    assert "timed out" not in str(caught.value)
    assert caught.type.__name__ not in ("TimeoutError", "AssertionError")
    client.await_quiet()


def test_callbacks_get_the_result_each_once(client: Client) -> None:
    key = uuid.uuid4().hex
    links = [client.task("note", key=key), client.task("note", key=key), client.infer()]
    result = client.infer("linked").apply_async(link=links)
    assert result.get(timeout=SECONDS) == "linked"
    assert client.await_noted(key, 2) == ["linked", "linked"]
    client.await_quiet()
    assert client.noted(key) == ["linked", "linked"]
    children = wait_until(lambda: AsyncResult(result.id).children, SECONDS, "children")
    assert len(children) == 3
    assert [one.get(timeout=SECONDS) for one in children] == ["linked"] * 3


def test_errbacks_of_either_style_are_called_once(client: Client) -> None:
    bad = client.infer("bad", params={"fail": "why"})
    result = bad.apply_async(link_error=[client.task("refused"), client.task("told")])
    with pytest.raises(Exception, match="why"):
        result.get(timeout=SECONDS)
    assert client.await_noted("refused", 1) == [result.id]
    client.await_quiet()
    assert client.infer("good").apply_async(link_error=client.task("refused")).get(timeout=SECONDS)
    client.await_quiet()
    assert client.noted("refused") == [result.id]


def test_an_errback_may_be_a_canvas(client: Client) -> None:
    bad = client.infer(1, params={"fail": "why"})
    steps = client.task("note", key="err-chain") | client.task("note", key="err-chain")
    counted = chord([client.task("note", key="err-chord")], client.task("note", key="err-body"))
    failed = bad.apply_async(link_error=[steps, counted])
    assert client.await_noted("err-chain", 2) == [failed.id] * 2
    assert client.await_noted("err-body", 1) == [str([failed.id])]
    body = client.task("total")
    body.link_error(client.task("note", key="err-of-body") | client.task("note", key="err-of-body"))
    failed = chord([bad.clone(), client.infer(2)], body).apply_async()
    assert client.await_noted("err-of-body", 2) == [failed.id] * 2
    client.await_quiet()


def test_an_errback_may_be_a_job(client: Client) -> None:
    bad = client.infer("bad", params={"fail": "why"})
    result = bad.apply_async(link_error=client.infer().set(task_id="errback"))
    assert AsyncResult("errback").get(timeout=SECONDS) == result.id


def test_where_it_comes_from_is_kept(client: Client) -> None:
    result = (client.infer(1) | client.infer() | client.infer()).apply_async()
    assert result.get(timeout=SECONDS) == 1
    first = result.parent.parent
    metas = [one._get_task_meta() for one in (first, result.parent, result)]
    assert [one.get("parent_id") for one in metas] == [None, first.id, result.parent.id]
    assert [[child.id for child in one["children"]] for one in metas] == [
        [result.parent.id],
        [result.id],
        [],
    ]
    assert [one.id for one, _ in first.collect(intermediate=True)] == [
        first.id,
        result.parent.id,
        result.id,
    ]


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's
def test_a_group_is_saved_and_restored(client: Client) -> None:
    result = group(client.infer(n) for n in range(3)).apply_async()
    result.save()
    restored = GroupResult.restore(result.id, app=client.app)
    assert restored.get(timeout=SECONDS) == [0, 1, 2]
    again = result_from_tuple(result.as_tuple(), app=client.app)
    assert again.get(timeout=SECONDS) == [0, 1, 2]


def test_options_of_each_step_are_honoured(client: Client) -> None:
    last = client.infer().set(task_id=f"named-{uuid.uuid4().hex}", countdown=0.5, priority=9)
    result = (client.infer(1) | last).apply_async()
    assert result.id == last.options["task_id"]
    assert result.get(timeout=SECONDS) == 1
    late = (client.infer(1) | client.infer().set(expires=-1)).apply_async()
    with pytest.raises(TaskRevokedError):
        late.get(timeout=SECONDS)
    client.await_quiet()


def test_a_revoked_part_fails_its_chord(client: Client) -> None:
    part = client.infer(1).set(task_id=f"part-{uuid.uuid4().hex}", countdown=60)
    result = chord([part, client.infer(2)], client.task("total")).apply_async()
    redis = client.stack.redis
    wait_until(lambda: redis.zcard(f"lf:lane:{LANE}:delayed"), SECONDS, "it to be parked")
    client.app.control.revoke(part.options["task_id"])
    with pytest.raises((ChordError, TaskRevokedError)):
        result.get(timeout=SECONDS)
    client.await_quiet()


def test_a_step_that_cannot_be_sent_fails_and_what_waits_for_it_too(client: Client) -> None:
    nowhere = client.app.signature("infer")  # neither a queue nor a model
    result = (client.infer(1) | nowhere | client.infer()).apply_async()
    with pytest.raises(Exception, match="needs kwargs"):
        result.get(timeout=SECONDS)
    client.await_quiet()


def test_a_signature_that_is_none_harms_nothing_else(client: Client) -> None:
    result = signature("infer", kwargs={"model": LANE, "input": 1}, app=client.app).apply_async(
        queue=LANE, link={"task": None, "no": "signature"}
    )
    assert result.get(timeout=SECONDS) == 1
    client.await_quiet()
