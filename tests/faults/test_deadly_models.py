"""Models that end or hold the process that runs them, under `python -m worker` on one device."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import httpx
import pytest
import yaml

from api.cli.fleet import free_port
from common.jobs.job import Job
from common.worker_report import WorkerReport
from tests.support.lanes import await_settled
from tests.support.stack import Process, Stack, wait_until


def start(stack: Stack, models: dict[str, dict[str, object]], **environment: str) -> Process:
    """A supervised worker that serves these `Deadly` models."""
    entries = {
        name: {"handler": "tests.support.handlers:Deadly", "run_identical_once": False, **body}
        for name, body in models.items()
    }
    path = stack.folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": entries}))
    stack.environment |= {
        "LANEFLEET_CATALOG": str(path),
        "LANEFLEET_SUPERVISED": "true",
        "LANEFLEET_LEASE_SECONDS": "60",  # so that only a release frees a job in time
        **environment,
    }
    return stack._start("worker", ["-m", "worker", "--devices", "cpu"], "", {})


def serving(stack: Stack, *lanes: str) -> WorkerReport:
    """The report of the worker that has loaded these."""

    def found() -> WorkerReport | None:
        return next((one for one in stack.reports() if _loaded(one, lanes)), None)

    return wait_until(found, 60, f"a worker with {lanes}")


def _loaded(report: WorkerReport, lanes: tuple[str, ...]) -> bool:
    try:
        os.kill(report.pid, 0)
    except ProcessLookupError:
        return False  # it died without a word; its report is there for a while
    return all(lane in report.lanes and report.lanes[lane].loaded for lane in lanes)


def test_a_process_that_a_model_ends_is_started_again_without_it(stack: Stack) -> None:
    """Four lives of one worker: a load that ends it, a run that holds it, its share of jobs."""
    worker = start(
        stack,
        {"deadly": {"options": {"load": 7}}, "good": {}, "held": {"infer_timeout_seconds": 0.5}},
        LANEFLEET_MODEL_MAX_DEATHS="1",
        LANEFLEET_MAX_ATTEMPTS="1",
        LANEFLEET_MAX_JOBS_PER_PROCESS="3",
    )
    report = serving(stack, "good", "held")
    assert "while it was loaded" in (report.lanes["deadly"].error or "")
    [first, waits] = stack.publish([Job("good", 1), Job("deadly", 1)])
    await_settled(stack, [first], 20)
    assert stack.states([waits]) == {"queued": 1}, "it waits for a worker that has the model"

    [hung, mate] = stack.publish([Job("held", 1, {"hang": 1}), Job("good", 2)])
    await_settled(stack, [hung, mate], 60)
    record = stack.record(hung)
    assert record is not None
    assert (record.state.value, record.attempts) == ("failed", 1)
    assert "did not return from its run within 0.5 s" in (record.error or "")
    assert stack.states([mate]) == {"succeeded": 1}

    report = serving(stack, "good")
    wait_until(lambda: "while it ran jobs" in (report_of(stack).lanes["held"].error or ""), 60)
    report = report_of(stack)
    assert report.rss_mb > 10
    ids = stack.publish([Job("good", n) for n in range(4)])
    wait_until(lambda: "worker_replaced" in worker.output(), 30, "the replacement")
    ids += stack.publish([Job("good", "after")])
    await_settled(stack, ids, 30)
    assert stack.states(ids) == {"succeeded": 5}
    assert "while it was loaded" in (serving(stack, "good").lanes["deadly"].error or "")
    assert worker.stop() == 0
    output = worker.output()
    assert output.count("worker_died") == 2, "a load and a run"
    assert output.count("model_stuck") == 1
    assert "in infer" in output, "where it hangs"


def report_of(stack: Stack) -> WorkerReport:
    """The report of the process that lives."""
    return serving(stack, "good")


@pytest.mark.slow
def test_a_worker_that_is_killed_from_outside_is_started_again(stack: Stack) -> None:
    worker = start(stack, {"good": {"options": {"thread": True}}})
    report = serving(stack, "good")
    os.kill(report.pid, signal.SIGKILL)
    wait_until(lambda: serving(stack, "good").pid != report.pid, 30, "another process")
    os.kill(serving(stack, "good").pid, signal.SIGTERM)
    # One that is asked to end is not started again, whatever threads it has.
    assert worker.popen.wait(30) == 0
    assert "worker_ended_by_force" in worker.output()


def test_copies_that_a_model_forks_do_no_work_and_end_with_their_process(stack: Stack) -> None:
    port = free_port()
    worker = start(stack, {"deadly": {}}, LANEFLEET_WORKER_HEALTH_PORT=str(port))
    pid = serving(stack, "deadly").pid
    ids = stack.publish([Job("deadly", n, {"fork": "back"}) for n in range(2)])
    ids += stack.publish([Job("deadly", n, {"fork_in_encode": 1}) for n in range(2)])
    await_settled(stack, ids, 30)
    found = [record.result for job_id in ids if (record := stack.record(job_id))]
    assert found == [pid] * 4, "no copy publishes"
    wait_until(lambda: len(group_of(pid)) == 1, 20, "the end of the copies")
    assert "copy_of_worker_ended" in worker.output()

    await_settled(stack, stack.publish([Job("deadly", 1, {"fork": "stay"})]), 20)
    wait_until(lambda: len(group_of(pid)) == 2, 20, "a copy that stays")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not group_of(pid), 20, "the end of both")
    wait_until(lambda: serving(stack, "deadly").pid != pid, 60, "another process")
    wait_until(lambda: healthy(port), 30, "the port of the dead")
    assert worker.stop() == 0


def group_of(pid: int) -> list[int]:
    """The processes that live of the group of this one."""
    found = subprocess.run(["ps", "-eo", "pid,pgid,stat"], capture_output=True, check=True)
    rows = [row.split() for row in found.stdout.decode().splitlines()[1:]]
    return [int(one) for one, group, state in rows if int(group) == pid and state[0] != "Z"]


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.slow
def test_a_process_that_runs_no_python_code_any_more_is_killed(stack: Stack) -> None:
    worker = start(stack, {"good": {}}, LANEFLEET_FROZEN_SECONDS="2")
    report = serving(stack, "good")
    os.kill(report.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: serving(stack, "good").pid != report.pid, 60, "another process")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(report.pid, signal.SIGCONT)
    assert "worker_frozen" in worker.output()
    assert worker.stop() == 0


@pytest.mark.parametrize("verb", ["exit", "exit_in_decode"])
@pytest.mark.slow
def test_a_model_that_kills_its_process_on_any_job_is_taken_out(stack: Stack, verb: str) -> None:
    worker = start(
        stack,
        {"deadly": {}, "good": {}},
        LANEFLEET_MODEL_MAX_DEATHS="1",
        LANEFLEET_MAX_ATTEMPTS="2",
        LANEFLEET_LEASE_SECONDS="2",
    )
    serving(stack, "good", "deadly")
    ids = stack.publish([Job("deadly", n, {verb: 9}) for n in range(8)])

    def out() -> bool:
        return any("while it ran" in (one.lanes["deadly"].error or "") for one in stack.reports())

    wait_until(out, 90, "the end of its service")
    [good] = stack.publish([Job("good", 1)])
    await_settled(stack, [good], 30)
    assert stack.states([good]) == {"succeeded": 1}
    wait_until(lambda: stack.states(ids).keys() <= {"queued", "failed"}, 20, "lapsed leases")
    assert worker.stop() == 0
