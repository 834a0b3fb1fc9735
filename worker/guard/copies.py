"""Ends copies of this process that a model's code makes with `os.fork`, and did not end itself.

A copy has one thread, which is in a verb, and all of the worker's connections. Code that means to
fork ends its copies (`multiprocessing` does). One that comes back from the verb would publish
results beside this process, or wait for ever with the worker's memory and ports.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import structlog

from worker.guard.calls import Slot

log = structlog.get_logger(__name__)

_STATUS = 70
_LOG_SECONDS = 2


def end_copies() -> None:
    """From now on a copy ends where its thread leaves the verb; a worker calls this at its start.

    What every verb passes at its end is replaced in the copy, so that the others pay nothing.
    """
    os.register_at_fork(after_in_child=_arm)


def _arm() -> None:
    Slot.leave = _end  # type: ignore[assignment, method-assign]
    Slot.enter = _end  # type: ignore[assignment, method-assign]


def _end(slot: Slot, *_: Any) -> None:
    # A thread that the copy does not have may hold a lock of the log.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_LOG_SECONDS)
    call = slot.call
    log.error(
        "copy_of_worker_ended",
        model=call.spec.name if call else None,
        verb=call.verb if call else None,
        reason="a model forked the process; its copy must not come back, but end by os._exit",
    )
    os._exit(_STATUS)
