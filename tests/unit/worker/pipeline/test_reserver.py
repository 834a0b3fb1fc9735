"""What the reserver asks for and the intake passes on, without Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from common.catalog import Catalog, ModelSpec
from common.settings import Settings
from tests.support.stack import wait_until
from worker.engine import Engine
from worker.jobs.execution import Execution
from worker.jobs.leases import Reservation
from worker.lanes.lane import Lane
from worker.pipeline.decode_pool import CallerReplaced, Decoded

UNUSED = "redis://127.0.0.1:1/0"


class Told:
    """A notifier that only notes who is looked at."""

    def __init__(self, *, is_told: bool = True) -> None:
        self.is_told = is_told
        self.looks: list[list[str]] = []

    def arm(self, lanes: Iterable[str]) -> set[str]:
        self.looks.append(list(lanes))
        return set()


@pytest.fixture
def engine() -> Engine:
    """Two lanes, `a` and `b`, whose model is here; no thread runs."""
    specs = {name: ModelSpec(name=name, handler="echo", max_batch=2) for name in ("a", "b")}
    made = Engine(Settings(), Catalog(specs), UNUSED, "worker", "cpu")
    handler: Any = SimpleNamespace(pads=True)
    for lane in made.lanes.values():
        lane.serve(lane.spec, handler)
        lane.ready = False
    made.reserver._notifier = Told()  # type: ignore[assignment]
    return made


def execution(name: str) -> Execution:
    made = Execution(name.encode() + b":1", 1, 0, name, time.monotonic())
    made.item, made.cost = name, 1.0
    return made


def decoded(lane: Lane, *executions: Execution) -> Decoded:
    return Decoded(lane, list(executions), pooled=False, began=0.0, busy_before=0.0)


def ready(engine: Engine, name: str, *jobs: str) -> list[Execution]:
    """Have these wait for the device."""
    lane, made = engine.lanes[name], [execution(job) for job in jobs]
    lane.in_hand |= {one.tag: one for one in made}
    lane.waiting += len(made)
    engine.intake.decoded(decoded(lane, *made))
    return made


def test_what_was_not_read_when_the_worker_stops_is_left_to_be_handed_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = engine.lanes["a"]
    one = execution("large")
    one.has_blob = True
    passed: list[Any] = []
    monkeypatch.setattr(engine.intake, "read", lambda _lane, _reservation: [one])
    monkeypatch.setattr(engine.intake._client, "mget", lambda _keys: pytest.fail("we stop"))
    for part, name in (
        (engine.decode_pool, "run"),
        (engine.decode_pool, "submit"),
        (engine.finisher, "submit_ended"),
    ):
        monkeypatch.setattr(part, name, lambda *args: passed.append(args))
    engine.state.stopping.set()
    engine.intake.accept(lane, Reservation([], 0, 0), lambda: None)
    assert passed == []
    assert lane.in_hand == {one.tag: one}
    assert one.disposition is None


def test_no_more_is_reserved_while_too_much_is_unpublished(engine: Engine) -> None:
    engine.lanes["a"].ready = True
    assert engine.reserver._hungry_lane() is engine.lanes["a"]
    engine.state.unpublished = 64
    assert engine.reserver._hungry_lane() is None


def test_a_cancel_between_two_looks_leaves_no_job_behind(engine: Engine) -> None:
    lane = engine.lanes["a"]
    kept, bad, lost = execution("kept"), execution("bad"), execution("lost")
    bad.fail("decode", ValueError("no"))
    lane.in_hand |= {one.tag: one for one in (kept, bad, lost)}
    lane.waiting = 3
    put: list[Execution] = []
    engine.finisher.submit_ended = lambda _lane, those: put.extend(those)  # type: ignore[method-assign]
    lock = engine.state.changed

    class Canceling:
        """The lock, before which the cancel comes in."""

        def __enter__(self) -> None:
            lost.disposition = "lost"
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

        def notify_all(self) -> None:
            lock.notify_all()

    engine.state.changed = Canceling()  # type: ignore[assignment]
    engine.intake.decoded(decoded(lane, kept, bad, lost))
    assert len(lane.batcher) + len(put) == 3, "each is with the batcher or the finisher"
    assert lane.waiting == len(lane.batcher)


@pytest.mark.parametrize("busy", ["notified", "hungry"])
def test_a_lane_is_looked_at_however_busy_another_is(engine: Engine, busy: str) -> None:
    """A notification may be lost, or the lane may not even have been armed."""
    told = engine.reserver._notifier
    assert isinstance(told, Told)
    a, b = engine.lanes["a"], engine.lanes["b"]
    a.armed = b.armed = True
    stop = threading.Event()
    if busy == "hungry":
        b.armed = False
        a.ready = True
        leases: Any = engine.reserver._leases["a"]
        leases.ask = lambda _wanted, _ttl: None

        def receive() -> Reservation:
            time.sleep(0.01)
            return Reservation([], 100, 0)

        leases.receive = receive

    def notify() -> None:
        while not stop.wait(0.05):
            engine.state.wake()

    notifier = threading.Thread(target=notify)
    notifier.start()
    engine.reserver.start()
    try:
        time.sleep(0.3)
        told.looks.clear()  # the first look is due at once
        deadline = time.monotonic() + 3
        while not any("b" in look for look in told.looks) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        engine.state.stopping.set()
        stop.set()
        engine.state.wake()
        notifier.join()
        engine.reserver.join(60)
    assert any("b" in look for look in told.looks)
    assert len(told.looks) < 10


def test_a_reserver_that_was_replaced_leaves_the_rest_to_the_next(engine: Engine) -> None:
    for name in ("a", "b"):
        engine.lanes[name].fetching[""] += 1
        engine.intake.fetched(engine.lanes[name], execution(name))
    decoding: list[str] = []

    def run(lane: Lane, _executions: Any, _replace: Any) -> None:
        decoding.append(lane.name)
        raise CallerReplaced

    engine.decode_pool.run = run  # type: ignore[method-assign]
    engine.lanes["a"].stats.decode_seconds = engine.lanes["b"].stats.decode_seconds = 0.0
    engine.reserver._run()
    assert decoding == ["a"]
    assert [one.job_id for _, one in engine.intake._fetched] == ["b"]


def test_a_device_that_waited_for_a_reservation_learns_that_there_is_no_work(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an idle worker is told to put Redis nearer, as of a slow one."""
    lane, leases = engine.lanes["a"], engine.reserver._leases["a"]
    monkeypatch.setattr(leases, "ask", lambda *_: None)
    monkeypatch.setattr(leases, "receive", lambda: Reservation([], 0, 0))
    lane.ready = True
    causes: list[str] = []
    idle = engine.device_parts.runner._idle

    def noted(wait: Any, now: float) -> None:
        causes.append(wait.cause)
        idle(wait, now)

    monkeypatch.setattr(engine.device_parts.runner, "_idle", noted)
    device = threading.Thread(target=engine.device_parts.runner._await_work)
    device.start()
    try:
        wait_until(lambda: causes == ["reserving"], 20, "the device to wait")
        for _ in ("looks", "asks", "receives"):
            engine.reserver._round()
        assert not lane.ready
        wait_until(lambda: causes[-1] == "no_work", 20, "it to wait for another reason")
    finally:
        engine.state.stop()
        device.join()
    assert engine.device_time.idle_seconds(time.monotonic())["no_work"] > 0
