"""What becomes of worker processes that die; the processes and the signals are real."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from common.settings import Settings
from tests.support.stack import wait_until
from worker.devices.placement import Placement
from worker.process.model_deaths import ModelDeaths
from worker.process.supervisor import MISCONFIGURED, Child, RestartPolicy, Supervisor, child_for

FAST = RestartPolicy(first_seconds=0.01, cap_seconds=0.05, young_seconds=60, max_young_deaths=3)
LIVES = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    open(sys.argv[1], "a").write("x")
    time.sleep(60)
"""
DIES = """
    import sys
    open(sys.argv[1], "a").write("x")
    sys.exit(int(sys.argv[2]))
"""


LOADS = """
    import json, os, signal, sys, time
    from worker.guard.marks import Marks
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    mark, statuses = sys.argv[1], json.loads(sys.argv[2])
    file, out_of_service, hold, _began = (word.partition("=")[2] for word in sys.argv[3:])
    lives = len(open(mark).read()) if os.path.exists(mark) else 0
    open(mark, "a").write("x")
    marks = Marks(int(file))
    marks.name(["m"])
    marks.beat()
    if "m" in json.loads(out_of_service):
        open(mark, "a").write("!")
        time.sleep(60)
    marks.words[marks.take_slot()] = marks.call("load", "m")
    os._exit(statuses[lives])
"""


def child(code: str, mark: Path, *arguments: str) -> Child:
    """A process that writes one `x` to its mark whenever it is up."""
    return Child("cpu", [sys.executable, "-c", textwrap.dedent(code), str(mark), *arguments])


def starts(mark: Path) -> int:
    return len(mark.read_text()) if mark.exists() else 0


def supervise(
    children: Sequence[Child],
    meanwhile: Callable[[], object] = lambda: None,
    policy: RestartPolicy = FAST,
    stop_seconds: float = 10.0,
) -> int:
    """Supervise in this thread, as it must be, and act from another."""
    errors: list[BaseException] = []

    def act() -> None:
        try:
            meanwhile()
        except BaseException as exc:
            errors.append(exc)
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=act)
    thread.start()
    status = Supervisor(children, policy, stop_seconds).run()
    thread.join()
    if errors:
        raise errors[0]
    return status


def stop_us() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_every_process_and_is_success(tmp_path: Path) -> None:
    marks = [tmp_path / "a", tmp_path / "b"]

    def stop_when_up() -> None:
        wait_until(lambda: all(starts(mark) for mark in marks), 20, "both children")
        stop_us()

    children = [child(LIVES, mark) for mark in marks]
    assert supervise(children, stop_when_up) == 0
    assert [starts(mark) for mark in marks] == [1, 1]


def test_a_killed_process_is_started_again_and_its_neighbour_left_alone(tmp_path: Path) -> None:
    victim, neighbour = (child(LIVES, tmp_path / name) for name in "ab")

    def kill_one() -> None:
        wait_until(lambda: starts(tmp_path / "a") == 1 and starts(tmp_path / "b"), 20, "a start")
        assert victim.process
        victim.process.kill()
        wait_until(lambda: starts(tmp_path / "a") == 2, 20, "a second start")
        stop_us()

    assert supervise([victim, neighbour], kill_one) == 0
    assert starts(tmp_path / "b") == 1


def test_a_process_that_keeps_dying_young_ends_all_with_an_error(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        status = supervise(
            [child(DIES, tmp_path / "dies", "1"), child(LIVES, tmp_path / "lives")], policy=FAST
        )
    assert status == 1
    assert starts(tmp_path / "dies") == 3
    events = [one["event"] for one in logs]
    assert events.count("worker_died") == 2
    assert events[-1] == "worker_given_up"


def test_whoever_lived_long_enough_is_always_started_again(tmp_path: Path) -> None:
    mark = tmp_path / "dies"

    def wait_for_more() -> None:
        wait_until(lambda: starts(mark) > FAST.max_young_deaths + 1, 30, "another start")
        stop_us()

    old_at_once = replace(FAST, young_seconds=0.0)
    with structlog.testing.capture_logs() as logs:
        supervise([child(DIES, mark, "1")], wait_for_more, old_at_once)
    # No word on the status: our signal may meet the process while it dies.
    assert "worker_given_up" not in [one["event"] for one in logs]


def test_a_process_that_cannot_start_as_configured_is_not_tried_again(tmp_path: Path) -> None:
    children = [child(DIES, tmp_path / "dies", "2"), child(LIVES, tmp_path / "lives")]
    assert supervise(children) == MISCONFIGURED
    assert starts(tmp_path / "dies") == 1


def test_a_process_that_was_asked_to_leave_stays_away(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        assert supervise([child(DIES, tmp_path / "leaves", "0")]) == 0
    assert starts(tmp_path / "leaves") == 1
    assert [one["event"] for one in logs] == ["worker_started", "worker_left"]


def test_a_process_that_hangs_after_sigterm_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "deaf"
    deaf = LIVES.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")

    def stop_when_up() -> None:
        wait_until(lambda: starts(mark), 20, "the deaf child")
        stop_us()

    began = time.monotonic()
    assert supervise([child(deaf, mark)], stop_when_up, stop_seconds=0.3) == 1
    assert time.monotonic() - began < 20


def test_sigterm_while_a_restart_is_due_starts_nobody(tmp_path: Path) -> None:
    mark = tmp_path / "dies"

    def stop_when_dead() -> None:
        wait_until(lambda: dying.start_at, 20, "the pause before a restart")
        stop_us()

    dying = child(DIES, mark, "1")
    slow = replace(FAST, first_seconds=60.0, cap_seconds=60.0)
    assert supervise([dying], stop_when_dead, slow) == 0
    assert starts(mark) == 1


def test_a_model_that_exits_as_if_all_were_well_is_found_out(tmp_path: Path) -> None:
    """With the statuses of a requested end, a wrong setting and a replacement."""
    mark = tmp_path / "mark"
    one = replace(child(LOADS, mark, json.dumps([0, MISCONFIGURED, 75])), deaths=ModelDeaths(3, 1))

    def stop_when_served() -> None:
        wait_until(lambda: starts(mark) == 5, 40, "a life without the model")
        stop_us()

    with structlog.testing.capture_logs() as logs:
        assert supervise([one], stop_when_served, replace(FAST, max_young_deaths=2)) == 0
    died = [one for one in logs if one["event"] == "worker_died"]
    assert [one["during"] for one in died] == [["load m"]] * 3
    assert died[-1]["out_of_service"] == ["m"]


def test_pauses_grow_to_a_bound_and_differ() -> None:
    policy = RestartPolicy()
    for deaths, longest in ((0, 1.0), (1, 1.0), (2, 2.0), (5, 16.0), (50, 30.0)):
        assert longest / 2 <= policy.pause(deaths) <= longest
    assert len({policy.pause(5) for _ in range(10)}) > 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system pins no process")
def test_a_child_starts_on_its_cores_and_outside_our_terminals_group(tmp_path: Path) -> None:
    code = """
        import json, os, sys
        found = [sorted(os.sched_getaffinity(0)), os.getpgrp() == os.getpid()]
        found.append(os.environ["CUDA_VISIBLE_DEVICES"])
        open(sys.argv[1], "w").write(json.dumps(found))
    """
    core = max(os.sched_getaffinity(0))
    one = replace(
        child(code, tmp_path / "found"),
        cores=frozenset({core}),
        environment=Placement("cuda:1", "1", 1).environment(),
    )
    assert supervise([one]) == 0
    found = json.loads((tmp_path / "found").read_text())
    assert found == [[core], True, "1"]


def test_children_get_the_redis_a_name_and_a_port_of_their_own() -> None:
    settings = Settings(worker_health_port=9100)
    child = child_for(
        settings, "redis://x", Placement("cuda:1", "1", 4, frozenset({0})), 1, "mine@here"
    )
    assert child.command[1:] == ["-m", "worker", "--placed-on", "cuda:1", "--name", "1-mine@here"]
    assert child.environment["LANEFLEET_REDIS_URL"] == "redis://x"
    assert child.environment["LANEFLEET_WORKER_HEALTH_PORT"] == "9101"
    assert child.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert child.cores == {0}
