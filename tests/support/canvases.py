"""Celery's canvases over a lane and a stock worker: the cases, and a client that sends them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery, Signature, chain, chord, group

from tests.support.lanes import LANE, RecordedLane
from tests.support.stack import ROOT, Process, Stack, wait_until

SECONDS = 30


class Client:
    """A stock client, a stock worker and a worker of ours over one Redis."""

    def __init__(self, stack: Stack, **environment: str) -> None:
        self.stack = stack
        self.lane = RecordedLane.on(stack, **environment)
        self.worker: Process | None = None
        self.jobs = 0
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
        self.jobs += 1
        options = {"queue": queue} if queue else {}
        return self.app.signature("infer", kwargs={"model": LANE, **kwargs}, options=options)

    def bare(self) -> Signature:
        """A job that names its queue only."""
        self.jobs += 1
        return self.app.signature("infer", queue=LANE)

    def task(self, name: str, *args: Any, **kwargs: Any) -> Signature:
        """A task of the stock worker."""
        return self.app.signature(f"stock.{name}", args=args, kwargs=kwargs)

    def noted(self, key: str) -> list[str]:
        """What the stock worker wrote down."""
        return [one.decode() for one in self.stack.redis.lrange(f"stock:{key}", 0, -1)]  # type: ignore[union-attr]

    def await_noted(self, key: str, count: int) -> list[str]:
        """Wait until so much was written down; returns all of it."""
        wait_until(lambda: len(self.noted(key)) >= count, SECONDS, f"{count} of {key}")
        return self.noted(key)

    def await_quiet(self) -> None:
        """Nothing is left in the outbox, and nothing leads anywhere."""
        redis = self.stack.redis
        wait_until(lambda: not redis.xlen("lf:outbox"), SECONDS, "an empty outbox")
        wait_until(lambda: not [*redis.scan_iter("lf:next:*")], SECONDS, "the end of what leads on")
        assert not redis.exists("lf:outbox:failed")


@contextmanager
def running_client(redis_url: str, folder: Path, **environment: str) -> Iterator[Client]:
    """A client and its stock worker over an emptied Redis; workers of ours are the test's."""
    stack = Stack(redis_url, folder)
    stack.redis.flushall()
    made = None
    try:
        made = Client(stack, **environment)
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
        lambda c: c.infer("a") | c.bare(),
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
