"""A model's code may raise anything, hang or return anything: its job pays, nobody else.

One engine in this process, without Celery, runs all the mistakes of the verbs that jobs reach;
those of the others are made in a model host.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from common.catalog import Catalog, ModelSpec
from common.jobs.job import Job
from common.jobs.record import JobRecord
from common.redis.embedded_server import RedisServer
from common.settings import Settings
from tests.support.lanes import await_settled
from tests.support.mistakes import COSTS, HANG, OUTPUTS, RAISES, RETURNS
from tests.support.models import calls
from tests.support.stack import Stack, wait_until
from worker.engine import Engine
from worker.guard.calls import Call, Calls, Slot
from worker.lanes.lane import Lane
from worker.lanes.state import WorkerState
from worker.maintenance.departure import Departure, ProcessLimits
from worker.observability.health_server import HealthServer
from worker.residency.loader import Loader
from worker.residency.loading import loader_for
from worker.residency.model_host import ModelHost
from worker.residency.residency import Residency
from worker.residency.weights_digests import WeightsDigests

HANDLER = "tests.support.mistakes:Mistaken"
JOB_VERBS = ("decode", "cost", "infer", "encode")
HOST_VERBS = ("load", "example", "unload")
LIMIT = 1.0


def crossed(verbs: Sequence[str]) -> list[Any]:
    """Every mistake in every verb; each is made in one of them in every run, in the others in the
    slow ones."""
    return [
        pytest.param(mistake, verb, marks=() if at % len(verbs) == turn else pytest.mark.slow)
        for at, mistake in enumerate(RAISES)
        for turn, verb in enumerate(verbs)
    ]


@dataclass
class Fleet:
    """An engine in this process, and the Redis that it serves."""

    stack: Stack
    engine: Engine
    ended: list[str]
    """Why the engine asked for its process's end."""

    def run(self, *jobs: Job) -> list[JobRecord]:
        """Publish these together, and wait until they are settled."""
        ids = self.stack.publish(list(jobs))
        await_settled(self.stack, ids, 20)
        return [record for one in ids if (record := self.stack.record(one))]


def make_fleet(redis_url: str, folder: Path, **settings: Any) -> Fleet:
    stack = Stack(redis_url, folder)
    stack.redis.flushall()
    made = Settings(
        redis_url=redis_url,  # type: ignore[arg-type]
        state_dir=folder,
        **{"max_attempts": 1, "decode_threads": 2, "shutdown_grace_seconds": 5, **settings},
    )
    specs = {
        name: ModelSpec(name=name, handler=HANDLER, run_identical_once=False, max_batch=4)
        for name in ("one", "other")
    }
    engine = Engine(made, Catalog(specs), redis_url, "here", "cpu")
    ended: list[str] = []
    engine.guard.departure._terminate = lambda *_: ended.append(engine.leaving)
    engine.start()
    wait_until(lambda: all(lane.handler for lane in engine.lanes.values()), 20, "both models")
    return Fleet(stack, engine, ended)


@pytest.fixture(scope="module")
def fleet(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One for all mistakes that leave the process as it was."""
    made = make_fleet(
        embedded_redis.url,
        tmp_path_factory.mktemp("fleet"),
        decode_timeout_seconds=LIMIT,
        encode_timeout_seconds=LIMIT,
        max_stuck_threads=1000,
    )
    yield made
    HANG.set()
    made.engine.stop()
    made.stack.close()


@pytest.mark.parametrize(("mistake", "verb"), crossed(JOB_VERBS))
def test_what_a_verb_raises_costs_its_job_alone_and_is_named(
    fleet: Fleet, mistake: str, verb: str
) -> None:
    with structlog.testing.capture_logs() as lines:
        bad, mate, other = fleet.run(
            Job("one", "bad", {verb: mistake}), Job("one", "mate"), Job("other", "other")
        )
    assert (mate.state.value, other.state.value) == ("succeeded", "succeeded")
    assert bad.state.value == "failed"
    named = {"NoName": "NoName", "OddCode": "ours, oddly", "OddVerdict": "ours, oddly"}
    said = named.get(mistake, mistake.split()[0])
    assert said in (bad.error or ""), bad.error
    assert len(bad.error or "") < 3_000
    assert not fleet.ended
    told = [line for line in lines if line["event"] == "model_raised"]
    assert len(told) <= 1, "once"
    assert not any("fault_of_ours" in line["event"] for line in lines), lines
    for line in told:  # a fault that another mistake of the same class met before is not told again
        assert (line["verb"], line["model"]) == (verb, "one")
        assert "mistakes.py" in line["traceback"]


@pytest.mark.parametrize("verb", ["decode", "cost", "encode"])
def test_a_verb_that_hangs_costs_its_job_alone(fleet: Fleet, verb: str) -> None:
    HANG.clear()
    bad, mate, other = fleet.run(
        Job("one", "bad", {verb: "hang"}), Job("one", "mate"), Job("other", "other")
    )
    left = fleet.engine.guard.calls.left_behind()
    HANG.set()
    assert (mate.state.value, other.state.value) == ("succeeded", "succeeded")
    assert bad.state.value == "failed"
    assert bad.reason == ("encode_timeout" if verb == "encode" else "decode_timeout")
    assert [call.verb for call in left] == ["encode" if verb == "encode" else "decode"]
    wait_until(lambda: not fleet.engine.guard.calls.left_behind(), 10, "its end")
    assert not fleet.ended


@pytest.mark.parametrize("what", RETURNS)
def test_infer_must_return_one_output_for_each_item(fleet: Fleet, what: str) -> None:
    bad, mate = fleet.run(Job("one", "bad", {"returns": what}), Job("one", "mate"))
    assert mate.state.value == "succeeded"
    assert (bad.state.value, bad.reason) == ("failed", "wrong_outputs"), bad
    assert "one" in (bad.error or "")


@pytest.mark.parametrize("what", COSTS)
def test_a_cost_is_a_number(fleet: Fleet, what: str) -> None:
    bad, mate = fleet.run(Job("one", "bad", {"costs": what}), Job("one", "mate"))
    assert (bad.state.value, mate.state.value) == ("failed", "succeeded")


@pytest.mark.parametrize("what", OUTPUTS)
def test_a_result_is_json_without_nan(fleet: Fleet, what: str) -> None:
    bad, mate = fleet.run(Job("one", "bad", {"output": what}), Job("one", "mate"))
    assert (bad.state.value, mate.state.value) == ("failed", "succeeded"), bad
    assert bad.reason == "encode_failed"
    if "nan" in what or "array" in what or "scalar" in what:
        assert "a NaN or an infinity" in (bad.error or "")


def test_a_run_that_hangs_is_told_and_ends_the_process_with_its_leases_released(
    own_stack: Stack, tmp_path: Path
) -> None:
    HANG.clear()
    fleet = make_fleet(
        own_stack.redis_url, tmp_path, infer_timeout_seconds=0.6, lease_seconds=60, max_attempts=3
    )
    try:
        jobs = [Job("one", "bad", {"infer": "hang"}), *(Job("other", n) for n in range(3))]
        ids = fleet.stack.publish(jobs)
        warned = wait_until(fleet.engine.warnings, 10, "a warning before the end")
        assert "infer of one has run for" in warned[0]
        assert fleet.engine.report(time.monotonic()).warnings, "and to the API's /ready"
        wait_until(lambda: fleet.ended, 10, "the end")
        assert fleet.ended == ["infer of one did not end within 0.6 s"]
        assert fleet.engine.guard.departure.status == 70
        status, _, body = HealthServer(fleet.engine, "127.0.0.1", 0, 30, Settings()).answer(
            "/health"
        )
        assert status == 503
        assert b"leaving: infer of one did not end" in body
        evidence = fleet.engine.guard.supervision.marks.read()
        assert evidence.culprit == ("infer", "one")
        fleet.engine.stop()
        states = fleet.stack.states(ids)
        assert states.keys() <= {"queued", "succeeded"}
        bad = fleet.stack.record(ids[0])
        assert bad is not None
        assert (bad.state.value, bad.attempts) == ("queued", 1), "charged, and not held any more"
        assert fleet.stack.redis.hlen("lf:lane:one:unacked") == 0
        assert fleet.stack.redis.hlen("lf:lane:other:unacked") == 0
    finally:
        HANG.set()
        fleet.stack.close()


def test_a_run_that_outlives_the_grace_of_a_shutdown_is_released_and_charged(
    own_stack: Stack, tmp_path: Path
) -> None:
    HANG.clear()
    fleet = make_fleet(
        own_stack.redis_url,
        tmp_path,
        infer_timeout_seconds=0,
        lease_seconds=60,
        max_attempts=3,
        shutdown_grace_seconds=0.2,
    )
    [bad] = fleet.stack.publish([Job("one", "bad", {"infer": "hang"})])
    wait_until(lambda: fleet.engine.state.running, 10, "its run")
    fleet.engine.stop()
    record = fleet.stack.record(bad)
    HANG.set()
    assert record is not None
    assert (record.state.value, record.attempts) == ("queued", 1)
    assert fleet.stack.redis.hlen("lf:lane:one:unacked") == 0
    fleet.stack.close()


def host(
    folder: Path, departure: list[str] | None = None, mistakes: dict[str, str] | None = None
) -> ModelHost:
    """One that serves a model with these mistakes, and one without."""
    guard = calls(load_timeout_seconds=LIMIT, unload_timeout_seconds=LIMIT)
    specs = {
        "bad": ModelSpec(name="bad", handler=HANDLER, options=mistakes or {}, memory_mb=1),
        "good": ModelSpec(name="good", handler=HANDLER, memory_mb=1),
    }
    lanes = {
        name: Lane(name, spec, result_ttl_seconds=60, look_ahead_jobs=256, max_fetching=64)
        for name, spec in specs.items()
    }
    for lane in lanes.values():
        lane.ready = False
    state = WorkerState(lanes)
    residency = Residency(specs, 0.0, loader_for("cpu", Settings()), lambda: 0.0)
    loader = Loader(state, residency, WeightsDigests(folder / "digests.json"), guard, 2)

    def stuck(_slot: Slot, call: Call) -> None:
        (departure if departure is not None else []).append(f"{call.verb} {call.spec.name}")

    return ModelHost(
        state, residency, loader, guard, warm_full_batches=False, turn_seconds=0, on_stuck=stuck
    )


def bring_in(one: ModelHost, model: str) -> bool:
    one.open(model)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if task := one.next_task():
            task()
        elif not one.is_bringing_in():
            return one.residency.handler(model) is not None
        one.look(time.monotonic())
        time.sleep(0.002)
    raise AssertionError(f"{one.loading} is still being loaded")


@pytest.mark.parametrize(("mistake", "verb"), crossed(HOST_VERBS))
def test_what_a_model_raises_outside_of_jobs_keeps_it_out_alone(
    tmp_path: Path, mistake: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.residency.residency.gc.collect", lambda: 0)  # 0.2 s of pytest's
    one = host(tmp_path, mistakes={verb: mistake})
    loaded = bring_in(one, "bad")
    assert loaded == (verb == "unload")
    if loaded:
        one.on_command(b"unload bad")
        task = one.next_task()
        assert task is not None
        task()
        assert one.residency.handler("bad") is None
    else:
        error = one.residency.models["bad"].error or ""
        assert mistake.split()[0] in error or "oddly" in error, error
        assert len(error) < 3_000
    assert bring_in(one, "good")


def test_a_load_that_hangs_lets_others_in_and_is_out_of_service_in_the_end(tmp_path: Path) -> None:
    HANG.clear()
    one = host(tmp_path, mistakes={"load": "hang"})
    for times in (1, 2):
        assert not bring_in(one, "bad")
        assert f"did not end within {LIMIT:g} s" in (one.residency.models["bad"].error or "")
        assert bring_in(one, "good") or times == 2
    assert not one.residency.may_load("bad", time.monotonic() + 1e9), "out of service"
    assert len(one._calls.left_behind()) == 2
    HANG.set()
    wait_until(lambda: not one._calls.left_behind(), 10, "the late loads")
    assert one.residency.handler("bad") is None, "what came too late is not used"
    one.on_command(b"load bad")
    assert bring_in(one, "bad"), "an operator brings it back"


@pytest.mark.parametrize("verb", ["example", "unload"])
def test_a_device_thread_that_a_model_holds_is_told(tmp_path: Path, verb: str) -> None:
    HANG.clear()
    ended: list[str] = []
    one = host(tmp_path, ended, {verb: "hang"})
    threading.Thread(target=bring_in, args=(one, "bad"), daemon=True).start()
    if verb == "unload":
        wait_until(lambda: one.residency.handler("bad"), 10, "the load")
        one.on_command(b"unload bad")
        threading.Thread(target=lambda: (one.next_task() or print)(), daemon=True).start()

    def look() -> bool:
        one.look(time.monotonic())
        return bool(ended)

    wait_until(look, 10, "the end")
    assert ended[0] == ("warm-up bad" if verb == "example" else "unload bad")
    HANG.set()


def departure(limits: ProcessLimits, **facts: float) -> tuple[Departure, Calls, list[int]]:
    """One of a process with these figures; and what it asked for."""
    guard, ended = calls(), list[int]()
    made = Departure(
        guard,
        limits,
        lambda: facts.get("rss_mb", 0.0),
        lambda: int(facts.get("jobs", 0)),
        lambda *_: ended.append(1),
    )
    return made, guard, ended


@pytest.mark.parametrize(
    ("limits", "facts", "after", "reason"),
    [
        (ProcessLimits(), {"rss_mb": 1e6, "jobs": 1e6}, 1e6, ""),
        (ProcessLimits(max_jobs=10), {"jobs": 9}, 1, ""),
        (ProcessLimits(max_jobs=10), {"jobs": 10}, 1, "it has done 10 jobs"),
        (ProcessLimits(max_rss_mb=500), {"rss_mb": 499}, 100, ""),
        (ProcessLimits(max_rss_mb=500), {"rss_mb": 501}, 100, "it takes 501 MB, more than 500 MB"),
        (ProcessLimits(max_rss_mb=500), {"rss_mb": 501}, 10, ""),
    ],
)
def test_a_process_that_has_used_its_share_asks_to_be_replaced(
    limits: ProcessLimits, facts: dict[str, float], after: float, reason: str
) -> None:
    made, _, ended = departure(limits, **facts)
    for _ in range(2):
        made.look(time.monotonic() + after)
    assert (made.reason, made.status) == (reason, 75 if reason else 0)
    assert ended == ([1] if reason else [])


def test_threads_that_never_come_back_have_the_process_replaced() -> None:
    made, guard, ended = departure(ProcessLimits(max_stuck_threads=2))
    leave = threading.Event()
    threads = []
    for _ in range(2):
        assert not ended
        slot = guard.new_slot()
        slot.enter("decode", ModelSpec(name="m", handler="echo"), 0.0)
        slot.thread = threading.Thread(target=leave.wait, daemon=True)
        slot.thread.start()
        threads.append(slot.thread)
        assert slot.call is not None
        guard.abandon(slot, slot.call)
        made.look(time.monotonic())
    leave.set()
    assert made.reason == "2 threads never came back: decode m"
    for thread in threads:
        thread.join()
    assert guard.left_behind() == []
