"""One worker process per device, as one service: start, crash, stop."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.support.stack import Process, Stack, wait_until


def serving(stack: Stack) -> set[int]:
    """The processes that have said they can run jobs."""
    return {one.pid for one in stack.reports() if one.on_the_bus and one.lanes["echo"].loaded}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def start_two(stack: Stack) -> tuple[Process, set[int]]:
    fleet = stack._start("worker", ["-m", "worker", "--devices", "cpu:2"], "echo", {})
    pids = wait_until(
        lambda: found if len(found := serving(stack)) == 2 else None, 60, "two workers"
    )
    assert fleet.pid not in pids
    return fleet, pids


def test_two_processes_serve_restart_and_stop_as_one(stack: Stack) -> None:
    fleet, pids = start_two(stack)
    os.kill(min(pids), signal.SIGKILL)
    (third,) = wait_until(lambda: serving(stack) - pids, 60, "a worker in its place")
    assert fleet.stop() == 0
    assert "worker_died" in fleet.output()
    assert not any(alive(pid) for pid in (*pids, third))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a child of its parent's end")
def test_no_worker_outlives_the_process_that_watches_over_it(stack: Stack) -> None:
    fleet, pids = start_two(stack)
    fleet.kill()
    wait_until(lambda: not any(alive(pid) for pid in pids), 40, "the end of the workers")
