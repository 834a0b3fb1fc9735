"""Child processes that end when their parent does.

Standard library only, and run by path, so that it costs a few megabytes:
`python -I processes.py COMMAND ARG...` runs a command for as long as its standard input stays
open. The process that starts it holds the other end of the pipe; when that process ends, by any
signal, the pipe closes. With `--group SECONDS` before it, the command runs in a process group of
its own, which is killed as a whole, so long after it was asked to end, and with it whatever left
the group: for commands that start others.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STOP_SECONDS = 20.0
_LOOK_SECONDS = 0.1
_LAST_SECONDS = 5.0


def watch_group(argv: list[str], stop_seconds: float) -> int:
    """The same in a process group of its own, of which nothing is left afterwards."""
    if sys.platform == "linux":  # who leaves the group, and loses its parent, becomes our child
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    before_exec = partial(die_with_parent, os.getpid())
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=before_exec
    )
    stopping = False

    def stop(_signum: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    while not stopping and not _has_ended(child.pid):
        readable, _, _ = select.select([0], [], [], _LOOK_SECONDS)
        stopping = stopping or bool(readable and not os.read(0, 4096))
        for orphan in _others(child.pid):
            _has_gone(orphan)
    until = time.monotonic() + stop_seconds
    if stopping:
        os.killpg(child.pid, signal.SIGTERM)
    while not _has_ended(child.pid) and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
    # Unreaped, so that its number still means its group.
    os.killpg(child.pid, signal.SIGKILL)
    status = child.wait()
    until = time.monotonic() + _LAST_SECONDS
    while (orphans := _others(child.pid)) and time.monotonic() < until:
        for orphan in orphans:  # its own children are ours with the next look
            with suppress(OSError):
                os.kill(orphan, signal.SIGKILL)
            if not _has_gone(orphan):
                time.sleep(_LOOK_SECONDS / 10)
    return status


def _others(pid: int) -> list[int]:
    """Our children but this one; none where the system does not list them."""
    try:
        file = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY)
    except OSError:
        return []
    try:
        found = os.read(file, 65_536).split()
    finally:
        os.close(file)
    return [int(one) for one in found if int(one) != pid]


def _has_gone(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def watch(argv: list[str]) -> int:
    """Run argv until standard input closes or the command ends; return its exit status."""
    before_exec = partial(die_with_parent, os.getpid())
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=before_exec)

    def forward(signum: int, _frame: FrameType | None) -> None:
        child.send_signal(signum)

    signal.signal(signal.SIGTERM, forward)
    while child.poll() is None:
        readable, _, _ = select.select([0], [], [], 0.5)
        if readable and not os.read(0, 4096):
            break
    if child.poll() is None:
        child.terminate()
    try:
        return child.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def die_with_parent(parent_pid: int) -> None:
    """In a new child: have Linux send SIGTERM when the thread that started it ends.

    If the parent ended before this call, the signal would never be sent: exit at once. What the
    parent does on SIGTERM is not for the child: until it runs its own program a signal would call
    the parent's handler there, and be lost.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        os._exit(1)


if __name__ == "__main__":
    if sys.argv[1] == "--group":
        sys.exit(watch_group(sys.argv[3:], float(sys.argv[2])))
    sys.exit(watch(sys.argv[1:]))
