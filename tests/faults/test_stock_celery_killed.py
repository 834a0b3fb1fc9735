"""What stock Celery makes of a worker killed with what leads on, beside what lanes make of it.

The same chain, callback and chord each time. docs/celery.md has the table of it.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from celery import Celery, Signature, chord
from celery.result import AsyncResult
from redis import Redis

from common.redis.keys import OUTBOX
from tests.support.lanes import LANE, RecordedLane, assert_lane_is_empty
from tests.support.stack import ROOT, Process, Stack, wait_until

SECONDS = 60
FIRST, AFTER = "first", "after"
"""The queue of the first tasks, and of those after them: the worker that is killed has the one."""
FIRSTS = 4
"""How many first tasks the canvases have."""
Step = Callable[..., Signature]
"""Makes a first task: its input."""


class Outcome(NamedTuple):
    """What became of a canvas."""

    first_runs: int
    """Of each of the first tasks."""
    first_stored: bool
    last_runs: int


LOST_BEFORE = Outcome(1, False, 0)
"""Nobody ran it again, and nothing came after it."""
ONCE, TWICE = Outcome(1, True, 1), Outcome(2, True, 2)
RUN_AGAIN = Outcome(2, True, 1)

STOCK: dict[tuple[str, str], dict[str, Outcome]] = {
    ("early", "ran"): dict.fromkeys(("chain", "link", "chord"), LOST_BEFORE),
    ("early", "sent"): {
        "chain": Outcome(1, False, 1),
        "link": Outcome(1, False, 1),
        "chord": LOST_BEFORE,
    },
    ("early", "stored"): {"chain": ONCE, "link": ONCE, "chord": Outcome(1, True, 0)},
    ("late", "ran"): dict.fromkeys(("chain", "link", "chord"), RUN_AGAIN),
    ("late", "sent"): {"chain": TWICE, "link": TWICE, "chord": RUN_AGAIN},
    ("late", "stored"): {"chain": TWICE, "link": TWICE, "chord": RUN_AGAIN},
}
OURS = {
    "finish": dict.fromkeys(("chain", "link", "chord"), RUN_AGAIN),
    "continue": dict.fromkeys(("chain", "link", "chord"), ONCE),
}


MOMENTS = {
    "it has run": ("ran", "finish"),
    "what follows is sent": ("sent", ""),
    "its result is stored": ("stored", "continue"),
}
"""Of the page's table: where a stock worker is held, and one of ours."""


def words(outcome: Outcome) -> str:
    """As the page says it."""
    if not outcome.last_runs:
        return "lost"
    said = f"{outcome.first_runs}, then {outcome.last_runs}"
    return said if outcome.first_stored else f"{said}; no result of the first"


def test_the_page_says_what_is_measured() -> None:
    page = (ROOT / "docs" / "celery.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    found = [row for row in rows if row[0] in MOMENTS]
    said = {(row[0], name): row[2:] for row in found for name in row[1].split(", ")}
    assert said == {
        (moment, name): [
            words(STOCK["early", stock][name]),
            words(STOCK["late", stock][name]),
            words(OURS[ours][name]) if ours else "no such moment",
        ]
        for moment, (stock, ours) in MOMENTS.items()
        for name in ("chain", "link", "chord")
    }


@pytest.fixture
def app(stack: Stack) -> Iterator[Celery]:
    """A client's."""
    with Celery("client", broker=stack.redis_url, backend=stack.redis_url) as made:
        made.set_current()
        yield made
        gc.collect()  # results unsubscribe as they go, for which the server must be there


def send(app: Celery, first: Step) -> dict[str, AsyncResult]:
    """The canvases; returns the result of a first task of each."""

    def after(name: str) -> Signature:
        return app.signature("stock.note", kwargs={"key": name}, queue=AFTER)

    chained = (first("chain") | after("chain")).apply_async()
    linked = first("link").apply_async(link=after("link"))
    joined = chord([first("chord-1"), first("chord-2")], after("chord")).apply_async()
    return {"chain": chained.parent, "link": linked, "chord": joined.parent[0]}


def stock_worker(stack: Stack, acks: str, hold: str, queues: str) -> Process:
    """Start one and wait until it says that it is ready."""
    command = [
        *("-m", "celery", "-A", "tests.support.held_stock", "worker", "-c", str(FIRSTS)),
        *("-Q", queues, "-n", f"{hold or 'free'}@%h", "-l", "INFO"),
        *("--without-gossip", "--without-mingle"),
    ]
    environment = {"ACKS": acks, "HOLD": hold, "STOCK_REDIS_URL": stack.redis_url}
    process = stack._start("stock", command, LANE, environment)
    wait_until(lambda: " ready." in process.output(), SECONDS, "a stock worker")
    return process


def kill_all(process: Process) -> None:
    """Its pool too, as when the machine goes."""
    os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def runs(stack: Stack, key: str) -> int:
    """How often the stock worker ran it."""
    return int(stack.redis.llen(f"stock:{key}"))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("acks", "hold"), STOCK)
def test_what_stock_celery_makes_of_it(stack: Stack, app: Celery, acks: str, hold: str) -> None:
    redis = stack.redis
    holder = stock_worker(stack, acks, hold, FIRST)

    def first(value: str) -> Signature:
        return app.signature(
            "stock.note", (value,), {"key": f"{value.split('-')[0]}-first"}, queue=FIRST
        )

    firsts = send(app, first)
    unacked = 0 if acks == "early" else FIRSTS
    wait_until(
        lambda: int(redis.get("stock:held") or 0) == FIRSTS and redis.hlen("unacked") == unacked,
        SECONDS,
        "all to stand still",
    )
    kill_all(holder)
    other = stock_worker(stack, acks, "", f"{FIRST},{AFTER}")
    wait_until(lambda: is_idle(app, redis) and is_idle(app, redis), SECONDS, "nothing to do")
    kill_all(other)
    outcomes = {
        name: Outcome(
            runs(stack, f"{name}-first") // (2 if name == "chord" else 1),
            result.ready(),
            runs(stack, name),
        )
        for name, result in firsts.items()
    }
    print(f"{acks} {hold}: {outcomes}")
    assert outcomes == STOCK[acks, hold]


def is_idle(app: Celery, redis: Redis) -> bool:
    """Whether nothing waits for its workers, and they have nothing in hand."""
    if redis.exists("unacked", FIRST, AFTER):
        return False
    look = app.control.inspect(timeout=5, limit=1)
    found = [look.active(), look.reserved()]
    return all(one and not any(one.values()) for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("hold", OURS)
def test_what_lanes_make_of_it(stack: Stack, app: Celery, hold: str) -> None:
    lane = RecordedLane.on(stack, LANEFLEET_LEASE_SECONDS="1")
    held = stack.folder / "held"
    stock = stock_worker(stack, "early", "", AFTER)
    environment = {"HOLD": hold, "HELD_FILE": str(held)}
    holder = stack._start("worker", ["-m", "tests.support.held_worker"], LANE, environment)
    stack.await_worker(holder)

    def first(value: str) -> Signature:
        return app.signature("infer", kwargs={"model": LANE, "input": value}, queue=LANE)

    holder.signal(signal.SIGSTOP)  # so that all come in one batch
    firsts = send(app, first)
    holder.signal(signal.SIGCONT)
    executed = {"chain": 1, "link": 1, "chord-1": 1, "chord-2": 1}
    wait_until(lambda: held.exists() and lane.executions() == executed, SECONDS, "it to hold")
    if hold == "continue":
        wait_until(lambda: stack.redis.xlen(OUTBOX) == FIRSTS, SECONDS, "all in the outbox")
    holder.kill()
    stack.worker(LANE)
    for name in firsts:
        wait_until(lambda key=name: runs(stack, key), SECONDS, f"what follows {name}")
    wait_until(
        lambda: not stack.redis.xlen(OUTBOX) and is_idle(app, stack.redis), SECONDS, "nothing to do"
    )
    kill_all(stock)
    assert_lane_is_empty(stack)
    outcomes = {
        name: Outcome(
            lane.executions()["chord-1" if name == "chord" else name],
            result.ready(),
            runs(stack, name),
        )
        for name, result in firsts.items()
    }
    print(f"{hold}: {outcomes}")
    assert outcomes == OURS[hold]
