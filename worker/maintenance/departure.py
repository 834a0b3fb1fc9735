"""Ends this process by itself, so that another can take its place, and tells why before.

A thread that a model holds cannot be freed, a device that failed cannot be used, and memory that
leaked does not come back: only a new process helps. The end is that of SIGTERM, with what is
unstarted released; it is forced where even that does not come to an end.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import structlog

from common.settings import Settings
from worker.guard.calls import Call, Calls, Slot, names_of, stack_of
from worker.guard.supervision import FAILED, REPLACE, STUCK

log = structlog.get_logger(__name__)

_MARGIN_SECONDS = 10.0
"""Time after shutdown_grace_seconds in which results are published and leases released."""
_LEAST_LIFE_SECONDS = 60.0
"""A process lives so long whatever memory it takes: its models alone may take more than allowed."""
_SPREAD = 0.1
"""Workers that were started together are not replaced together."""


class ProcessLimits(NamedTuple):
    """What one process may use before it is replaced; 0 is no limit."""

    max_rss_mb: float = 0.0
    max_jobs: int = 0
    max_stuck_threads: int = 0
    grace_seconds: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> ProcessLimits:
        """The limits of these settings; the number of jobs differs a little by process."""
        spread = random.uniform(1.0, 1.0 + _SPREAD)  # noqa: S311 - spreads restarts
        return cls(
            settings.max_rss_mb,
            int(settings.max_jobs_per_process * spread),
            settings.max_stuck_threads,
            settings.shutdown_grace_seconds,
        )


class Departure:
    """Whether the process is leaving by itself: why, and with which exit status."""

    def __init__(
        self,
        calls: Calls,
        limits: ProcessLimits,
        rss_mb: Callable[[], float],
        finished: Callable[[], int],
        terminate: Callable[[int, float], None] | None = None,
    ) -> None:
        """finished returns how many results were published; terminate begins an orderly end, and
        forces it with this status after these seconds.
        """
        self._calls = calls
        self._limits = limits
        self._rss_mb = rss_mb
        self._finished = finished
        self._terminate = terminate or end_process
        self._born = time.monotonic()
        self.status = 0
        """The exit status; 0 where the process was asked to end, or has not ended."""
        self.reason = ""
        """Why it leaves; empty while it stays."""
        self.stuck: Call | None = None
        """The call that holds the device's thread for good."""

    def fail(self, model: str) -> None:
        """The device cannot be used any more, since a run of this model where one is named."""
        if model:
            self._calls.marks.blame("infer", model)
        self._leave(FAILED, "its device cannot be used any more")

    def on_stuck(self, slot: Slot, call: Call) -> None:
        """The device's thread is in a call that takes longer than its limit."""
        if self.stuck is not None:
            return
        self.stuck = call
        limit = self._calls.limits.of(call.verb, call.spec)
        log.error(
            "model_stuck",
            model=call.spec.name,
            verb=call.verb,
            limit_seconds=limit,
            jobs=len(call.about or ()),
            stack=stack_of(slot.thread),
            consequence="this process ends; its jobs are run by another",
        )
        self._calls.marks.blame(call.verb, call.spec.name)
        self._leave(STUCK, f"{call.verb} of {call.spec.name} did not end within {limit:g} s")

    def look(self, now: float) -> None:
        """Leave where the process has used its share; the watchdog calls it."""
        if self.reason:
            return
        limits, left = self._limits, self._calls.left_behind()
        if limits.max_stuck_threads and len(left) >= limits.max_stuck_threads:
            names = ", ".join(dict.fromkeys(names_of(left)))
            self._leave(REPLACE, f"{len(left)} threads never came back: {names}")
        elif limits.max_jobs and self._finished() >= limits.max_jobs:
            self._leave(REPLACE, f"it has done {self._finished()} jobs")
        elif limits.max_rss_mb and now - self._born > _LEAST_LIFE_SECONDS:
            self._weigh(self._rss_mb())

    def _weigh(self, rss_mb: float) -> None:
        if rss_mb > (most := self._limits.max_rss_mb):
            self._leave(REPLACE, f"it takes {rss_mb:.0f} MB, more than {most:g} MB")

    def _leave(self, status: int, reason: str) -> None:
        if self.reason:
            return
        self.status, self.reason = status, reason
        log.warning("worker_leaves", reason=reason, status=status)
        self._terminate(status, self._limits.grace_seconds + _MARGIN_SECONDS)


def end_process(status: int, seconds: float) -> None:
    """End this process as SIGTERM does, and by force where it lives after these seconds."""

    def insist() -> None:
        time.sleep(seconds)
        log.error("worker_ended_by_force", reason="it did not end by itself", status=status)
        os._exit(status)

    threading.Thread(target=insist, name="departure", daemon=True).start()
    os.kill(os.getpid(), signal.SIGTERM)
