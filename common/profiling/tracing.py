"""Lets one process, and what that starts, read this one's memory: for as long as it asks.

On Linux with Yama (`/proc/sys/kernel/yama/ptrace_scope` is 1, as on Debian's and Ubuntu's kernels)
a profiler may attach to its own children only, unless a process names it as its tracer.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.profiling.local_socket import Held, LocalRefused, LocalSocket

MOST_SECONDS = 3600.0
_PR_SET_PTRACER = 0x59616D61
_one_at_a_time = threading.Lock()


def permit_tracing(_request: Mapping[str, Any], pid: int) -> Held:
    """Permit the asking process to trace this one until it closes its connection, an hour at most.

    Raises LocalRefused while another does.
    """
    if not _one_at_a_time.acquire(blocking=False):
        raise LocalRefused("another profile of this process is under way: wait for it to end")
    _name_tracer(pid)
    return Held("permitted", MOST_SECONDS, _forbid)


def _forbid() -> None:
    _name_tracer(0)
    _one_at_a_time.release()


def _name_tracer(pid: int) -> None:
    """0 is nobody. A kernel without Yama knows no such call, and needs none."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, pid, 0, 0, 0)


def socket_of_api(folder: Path, pid: int) -> LocalSocket:
    """The socket of an API process; not started."""
    return LocalSocket(folder, f"api-{pid}", {"trace": permit_tracing})
