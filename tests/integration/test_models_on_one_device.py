"""Several models on one device: turns, lazy loads, a memory budget, a swap under load."""

from __future__ import annotations

import signal
import statistics
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from common.jobs.job import Job
from tests.support.stack import Process, Stack, wait_until


def catalog(stack: Stack, aliases: dict[str, str] | None = None, **models: Any) -> None:
    """Serve these models, all of them `Paced`."""
    entries = {
        name.replace("_v", "@"): {
            "handler": "tests.support.handlers:Paced",
            "max_batch": 16,
            "run_identical_once": False,
            **body,
        }
        for name, body in models.items()
    }
    path = Path(stack.folder) / "models.yaml"
    path.write_text(yaml.safe_dump({"models": entries, "aliases": aliases or {}}))
    stack.environment["LANEFLEET_CATALOG"] = str(path)


def loaded(stack: Stack) -> set[str]:
    """The models that the worker has in memory."""
    return {name for report in stack.reports() for name in report.models}


def start(stack: Stack, **environment: str) -> Process:
    """A worker, whether or not it has loaded anything."""
    worker = stack._start("worker", ["-m", "worker"], "", environment)
    wait_until(stack.reports, 30, "a worker")
    return worker


def test_four_models_share_a_device_in_turns_with_full_batches(stack: Stack) -> None:
    names = ("a", "b", "c", "d")
    catalog(stack, **{name: {"options": {"batch_ms": 20}} for name in names})
    # A turn ends by its batches here, however long they take on a busy machine.
    worker = stack.worker("", LANEFLEET_TURN_SECONDS="60")
    worker.signal(signal.SIGSTOP)
    jobs = [Job(names[number % 4], number) for number in range(2400)]
    stack.publish(jobs)
    worker.signal(signal.SIGCONT)
    succeeded = lambda: sum(stack.stats(name).get("succeeded", 0) for name in names)  # noqa: E731
    wait_until(lambda: succeeded() == 2400, 60, "all jobs")
    finished: dict[str, list[int]] = {name: [] for name in names}
    for job in jobs:
        record = stack.record(job.id)
        assert record is not None
        assert record.finished_ms is not None
        finished[job.model].append(record.finished_ms)
    (report,) = stack.await_reports()
    batches = sum(lane.batch_count for lane in report.lanes.values())
    assert 2400 / (batches * 16) >= 0.9, report.lanes
    assert report.switches <= batches / 4 + 1
    for name, times in finished.items():
        gaps = [after - before for before, after in pairwise(times)]
        assert max(gaps) < 20_000, f"{name} waited while it had work"


def test_lazy_models_load_with_their_first_job_and_leave_for_others(stack: Stack) -> None:
    lazy = {"load": "lazy", "memory_mb": 40}
    catalog(stack, one=lazy, two=lazy, three=lazy, kept={"memory_mb": 20, "pin": True})
    start(stack, LANEFLEET_MODEL_MEMORY_MB="100")
    wait_until(lambda: loaded(stack) == {"kept"}, 20, "the eager one")
    for model, beside in (("one", set()), ("two", {"one"}), ("three", {"two"}), ("one", {"three"})):
        ids = stack.publish([Job(model, number) for number in range(40)])
        wait_until(lambda ids=ids: stack.states(ids) == {"succeeded": 40}, 20, model)  # type: ignore[misc]
        wait_until(lambda model=model: model in loaded(stack), 20, "its report")  # type: ignore[misc]
        stack.await_reports(3)  # a later report shows who had to leave after all
        assert loaded(stack) == {"kept", model, *beside}


def test_models_that_do_not_fit_together_all_get_their_turn(stack: Stack) -> None:
    tight = {"load": "lazy", "memory_mb": 60, "options": {"batch_ms": 5, "load_ms": 50}}
    catalog(stack, one=tight, two=tight)
    start(stack, LANEFLEET_MODEL_MEMORY_MB="100", LANEFLEET_TURN_SECONDS="0.5")
    ids = stack.publish([Job(("one", "two")[number % 2], number) for number in range(1600)])
    wait_until(lambda: stack.states(ids) == {"succeeded": 1600}, 60, "all jobs")


def test_a_model_that_is_too_large_says_so(stack: Stack) -> None:
    catalog(stack, huge={"memory_mb": 200}, small={"memory_mb": 10})
    api = stack.api("")
    start(stack, LANEFLEET_MODEL_MEMORY_MB="100")
    wait_until(lambda: loaded(stack) == {"small"}, 20, "the one that fits")
    (huge,) = [one for one in api.client.models() if one["name"] == "huge"]
    assert "LANEFLEET_MODEL_MEMORY_MB" in next(iter(huge["errors"].values()))


def test_operators_load_unload_and_warm(stack: Stack) -> None:
    catalog(stack, model={"load": "lazy"})
    api = stack.api("")
    start(stack)
    assert loaded(stack) == set()
    assert wait_until(lambda: api.client.ask_of_model("model", "load"), 20, "a listener") == 1
    wait_until(lambda: loaded(stack) == {"model"}, 20, "the load")
    assert api.client.ask_of_model("model", "warm") == 1
    assert api.client.ask_of_model("model", "unload") == 1
    wait_until(lambda: loaded(stack) == set(), 20, "the unload")
    assert api.client.submit("model", "again", wait=20)["state"] == "succeeded"


def test_an_alias_moves_under_load_without_a_failed_job(stack: Stack) -> None:
    slow_start = {"load": "lazy", "options": {"batch_ms": 10, "cold_ms": 500, "load_ms": 1000}}
    catalog(stack, {"m": "m@1"}, m_v1={"options": {"batch_ms": 10}}, m_v2=slow_start)
    api = stack.api("")
    start(stack)
    wait_until(lambda: loaded(stack) == {"m@1"}, 20, "the old version")
    jobs: list[Job] = []
    enough = threading.Event()

    def feed() -> None:
        while not enough.wait(0.01):
            jobs.append(Job("m", len(jobs)))
            stack.publish(jobs[-1:])

    feeder = threading.Thread(target=feed)
    feeder.start()
    wait_until(lambda: len(jobs) > 100, 30, "some work for the old version")
    assert api.client.move_alias("m", "m@2") == 1
    wait_until(lambda: "m@2" in loaded(stack), 20, "the new version")
    moved = len(jobs)
    wait_until(lambda: len(jobs) > moved + 100, 30, "some work for the new version")
    enough.set()
    feeder.join()
    ids = [job.id for job in jobs]
    wait_until(lambda: stack.states(ids).get("succeeded") == len(ids), 20, "every job")
    records = [stack.record(one) for one in ids]
    versions = [record.version for record in records if record]
    swap = versions.index("2")
    assert set(versions[:swap]) == {"1"}
    assert set(versions[swap:]) == {"2"}
    assert swap > 20, "the old version served while the new one was loaded"
    took = [(one.finished_ms or 0) - (one.created_ms or 0) for one in records if one]
    steady = statistics.median(took[:swap])
    print(f"steady {steady} ms, first of the new {took[swap]} ms, worst {max(took)} ms")
    print(swap, [(i, t) for i, t in enumerate(took) if t > 60])
    assert took[swap + 1] < steady + 500, "it was warm when it took over"
    (shown,) = [one for one in api.client.models() if one["name"] == "m"]
    assert (shown["alias_of"], shown["version"], len(shown["loaded_by"])) == ("m@2", "2", 1)
