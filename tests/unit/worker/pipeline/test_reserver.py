"""The engine's bookkeeping without Redis: what the feeder passes on, what the device is given."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from common.catalog import Catalog, ModelSpec
from common.jobs.job import Job
from common.jobs.message import build_message
from common.settings import Settings
from worker.engine import Engine
from worker.jobs.leases import Lease, Reservation
from worker.jobs.steps import Execution, parse
from worker.lanes.lane import Lane
from worker.lanes.notifier import Doorbell
from worker.pipeline.decode_pool import Decoded
from worker.pipeline.reserver import Feeder
from worker.transfer import Later

UNUSED = "redis://127.0.0.1:1/0"


class Bell:
    """A doorbell that only notes who is looked at."""

    def __init__(self, *, rings: bool = True) -> None:
        self.rings = rings
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
    made.doorbell = Bell()  # type: ignore[assignment]
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
    engine.feeder.on_decoded(decoded(lane, *made))
    return made


def test_what_was_not_fetched_when_we_stop_is_left_to_be_handed_back(engine: Engine) -> None:
    lane = engine.lanes["a"]
    one = execution("large")
    one.has_blob = True
    lane.read = lambda _reservation: [one]  # type: ignore[method-assign]
    lane.fetch_blobs = lambda _executions: pytest.fail("we stop")  # type: ignore[method-assign]
    passed: list[Any] = []
    engine.decoders.run = lambda *args: passed.append(args)  # type: ignore[method-assign]
    engine.decoders.put = lambda *args: passed.append(args)  # type: ignore[method-assign]
    engine.finisher.put = lambda *args: passed.append(args)  # type: ignore[method-assign]
    engine.stopping.set()
    engine.feeder._take(lane, Reservation([], 0, 0))
    assert passed == []
    assert lane.in_hand == {one.tag: one}
    assert one.settled is None


def test_failures_on_their_way_out_do_not_stop_the_device(engine: Engine) -> None:
    for number in range(5):
        failed = execution(f"bad{number}")
        failed.fail("decode", ValueError("no"))
        engine.lanes["a"].fetching += 1
        engine.feeder.on_fetched(engine.lanes["a"], failed)
    waiting = ready(engine, "b", "good")
    work = engine.take_work()
    assert isinstance(work, tuple)
    assert list(work[1]) == waiting


def test_no_more_is_reserved_while_too_much_is_unpublished(engine: Engine) -> None:
    engine.lanes["a"].ready = True
    assert engine.feeder._hungry_lane() is engine.lanes["a"]
    engine.finisher.pending = 64
    assert engine.feeder._hungry_lane() is None


def test_a_cancel_between_two_looks_leaves_no_job_behind(engine: Engine) -> None:
    lane = engine.lanes["a"]
    kept, bad, lost = execution("kept"), execution("bad"), execution("lost")
    bad.fail("decode", ValueError("no"))
    lane.in_hand |= {one.tag: one for one in (kept, bad, lost)}
    lane.waiting = 3
    put: list[Execution] = []
    engine.finisher.put = lambda _lane, those: put.extend(those)  # type: ignore[method-assign]
    lock = engine.changed

    class Canceling:
        """The lock, before which the cancel comes in."""

        def __enter__(self) -> None:
            lost.settled = "lost"
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

        def notify_all(self) -> None:
            lock.notify_all()

    engine.feeder._changed = Canceling()  # type: ignore[assignment]
    engine.feeder.on_decoded(decoded(lane, kept, bad, lost))
    assert len(lane.batcher) + len(put) == 3, "each is with the batcher or the finisher"
    assert lane.waiting == len(lane.batcher)


@pytest.mark.parametrize("busy", ["notified", "hungry"])
def test_a_lane_is_looked_at_however_busy_another_is(engine: Engine, busy: str) -> None:
    """Its ring may be lost, or it may not even have been armed."""
    bell = engine.doorbell
    assert isinstance(bell, Bell)
    a, b = engine.lanes["a"], engine.lanes["b"]
    a.armed = b.armed = True
    stop = threading.Event()
    if busy == "hungry":
        b.armed = False
        a.ready = True
        a.ask = lambda _wanted: None  # type: ignore[method-assign]

        def receive() -> Reservation:
            time.sleep(0.01)
            a.backlog = 100
            return Reservation([], 100, 0)

        a.receive = receive  # type: ignore[method-assign]

    def notify() -> None:
        while not stop.wait(0.05):
            engine._notify()

    notifier = threading.Thread(target=notify)
    notifier.start()
    engine.feeder.start()
    try:
        time.sleep(0.3)
        bell.looks.clear()  # the first look is due at once
        deadline = time.monotonic() + 3
        while not any("b" in look for look in bell.looks) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        engine.stopping.set()
        stop.set()
        engine._notify()
        notifier.join()
        engine.feeder.join(5)
    assert any("b" in look for look in bell.looks)
    assert len(bell.looks) < 10


def test_a_suspect_gets_the_device_though_another_lane_is_always_full(engine: Engine) -> None:
    ready(engine, "a", "1", "2", "3", "4")
    engine.lanes["b"].suspects.append(execution("suspect"))
    engine.turns.order = lambda _candidates, _now: ["b", "a"]  # type: ignore[assignment,method-assign]
    on_device = Later(lambda: True, list, lambda: 0.0)
    assert engine.take_work(on_device) is None, "the device must come to rest first"
    work = engine.take_work()
    assert isinstance(work, tuple)
    assert [one.job_id for one in work[1]] == ["suspect"]


def test_a_driver_that_raises_when_asked_counts_as_done(engine: Engine) -> None:
    def broken() -> bool:
        raise RuntimeError("CUDA error: device-side assert triggered")

    assert engine.take_work(Later(broken, list, lambda: 0.0)) is None


def test_a_feeder_that_was_given_up_leaves_the_rest_to_the_next(engine: Engine) -> None:
    feeder: Feeder = engine.feeder
    for name in ("a", "b"):
        engine.lanes[name].fetching += 1
        feeder.on_fetched(engine.lanes[name], execution(name))
    decoding: list[str] = []

    def run(lane: Lane, _executions: Any, _replace: Any) -> None:
        decoding.append(lane.name)
        feeder._thread = threading.Thread()  # another has taken over meanwhile

    engine.decoders.run = run  # type: ignore[method-assign]
    engine.lanes["a"].decode_seconds = engine.lanes["b"].decode_seconds = 0.0
    feeder._thread = threading.current_thread()
    feeder._feed()
    assert decoding == ["a"]
    assert [one.job_id for _, one in feeder._fetched] == ["b"]


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_a_deadline_that_is_no_time_makes_the_message_unreadable(text: str) -> None:
    message = orjson.loads(build_message(Job("a", 1)))
    for given, settled in ((text, "unreadable"), ("99999", None)):
        message["headers"]["deadline_ms"] = given
        assert parse(Lease(b"tag:1", 1, b"0", orjson.dumps(message)), "a", 0.0).settled == settled


def test_an_id_that_is_no_text_makes_the_message_unreadable() -> None:
    message = build_message(Job("a", 1, id="ID")).replace(b'"ID"', rb'"\ud800"')
    assert parse(Lease(b"tag:1", 1, b"0", message), "a", 0.0).settled == "unreadable"


def test_a_refused_tracking_leaves_no_answer_behind() -> None:
    from redis.exceptions import ResponseError

    answers: list[Any] = [ResponseError("no permission"), ResponseError("no permission"), 1]

    class Wire:
        is_connected = True

        def pack_commands(self, commands: Any) -> Any:
            return commands

        def send_packed_command(self, _commands: Any) -> None: ...

        def disconnect(self) -> None: ...

        def read_response(self) -> Any:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    wire: Any = Wire()
    connect: Any = lambda: SimpleNamespace(  # noqa: E731
        connection_pool=SimpleNamespace(make_connection=lambda: wire)
    )
    none: Any = lambda *_: None  # noqa: E731
    bell = Doorbell(connect, {"a": ("lane-a",)}, none, none, none, none)
    bell._redirect_to = 7
    assert bell.arm(["a"]) == {"a"}
    assert answers == []
    assert not bell.rings
