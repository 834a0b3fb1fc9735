"""Commands that a provider forbids: each is told of once in a process, with what follows from it.

Managed Redis often refuses INFO, CONFIG or CLIENT to whoever uses it. We do without, and who
runs the fleet should know what that costs; but not at every look, fifty times a second.
"""

from __future__ import annotations

import threading

import structlog

log = structlog.get_logger(__name__)

_told: set[str] = set()
_lock = threading.Lock()


def tell_refusal(command: str, consequence: str, error: Exception) -> None:
    """Say, the first time, that the server refuses this command and what we do instead."""
    with _lock:
        if command in _told:
            return
        _told.add(command)
    log.warning("redis_command_refused", command=command, consequence=consequence, error=str(error))


def forget_refusals() -> None:
    """For tests: as if the process had just begun."""
    with _lock:
        _told.clear()
