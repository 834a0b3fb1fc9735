"""Children that end with their parent, whenever that is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from common import processes
from common.processes import die_with_parent
from tests.support.stack import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_child_whose_parent_was_gone_before_it_could_ask_ends_at_once() -> None:
    """As between the fork and the request, which takes a few milliseconds."""
    child = subprocess.Popen(SLEEPS, preexec_fn=partial(die_with_parent, os.getppid()))
    assert child.wait(20) == 1


def test_a_child_ends_when_its_parent_is_killed() -> None:
    code = f"""
import os, subprocess, sys, time
from functools import partial
from common.processes import die_with_parent
child = subprocess.Popen({SLEEPS!r}, preexec_fn=partial(die_with_parent, os.getpid()))
print(child.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(gone, 20, "the child's end")


def test_a_signal_before_a_child_runs_its_program_ends_it() -> None:
    """The parent's handler is inherited until then; it swallowed the signal of its own death."""

    def in_the_child(parent: int) -> None:
        die_with_parent(parent)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        child = subprocess.Popen(SLEEPS, preexec_fn=partial(in_the_child, os.getpid()))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert child.wait(20) == -signal.SIGTERM


def test_a_group_ends_with_who_started_it_however_stubborn(tmp_path: Path) -> None:
    """The shell and what it started ignore being asked, and their starter is killed."""
    script = f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/pids; echo $$ >> {tmp_path}/pids; wait"
    command = [sys.executable, "-I", processes.__file__, "--group", "0.2", "/bin/sh", "-c", script]
    code = f"""
import subprocess, time
child = subprocess.Popen({command!r}, stdin=subprocess.PIPE, start_new_session=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    pids = wait_until(lambda: _two_lines(tmp_path / "pids"), 20, "the group")
    assert all(map(_runs, pids))
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(map(_runs, pids)), 20, "the end of the group")


def test_a_group_tells_how_its_command_ended_and_leaves_nothing(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/pids; echo $$ >> {tmp_path}/pids; exit 7"
    command = [sys.executable, "-I", processes.__file__, "--group", "5", "/bin/sh", "-c", script]
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert child.wait(20) == 7
    assert child.stdin is not None
    child.stdin.close()
    pids = _two_lines(tmp_path / "pids")
    wait_until(lambda: not any(map(_runs, pids)), 20, "the end of the group")


@pytest.mark.parametrize("asked", [True, False])
def test_who_left_the_group_ends_with_it(tmp_path: Path, asked: bool) -> None:
    """A process in a session of its own, whose parent has ended, is in no group of ours."""
    code = f"""
import os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        with open({str(tmp_path / "pids")!r}, "a") as file:
            print(os.getpid(), os.getppid(), file=file)
        time.sleep(60)
    os._exit(0)
time.sleep({60 if asked else 0.5})
"""
    command = [sys.executable, "-I", processes.__file__, "--group", "2", sys.executable, "-c", code]
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    daemon, _ = wait_until(lambda: _two_lines(tmp_path / "pids"), 20, "the daemon")
    assert _runs(daemon)
    assert child.stdin is not None
    if asked:
        child.stdin.close()
    child.wait(20)
    assert not _runs(daemon)
    child.stdin.close()


def _two_lines(path: Path) -> list[int]:
    found = path.read_text().split() if path.exists() else []
    return [int(one) for one in found] if len(found) == 2 else []


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
