"""Runs several API processes on one port.

The port is bound here and inherited, so connections wait in its backlog, and none is refused,
while a process is replaced. A process that has served its maximum number of requests sends a
notice when it begins to drain; its successor starts then, not when its last client is gone. A
process that crashes is restarted, with a growing delay while it crashes soon after its start; one
that cannot start as configured ends them all with its status.
"""

from __future__ import annotations

import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import structlog

from api.server.totals import Totals
from common.errors import ConfigurationError
from common.processes import die_with_parent
from common.settings import ENV_PREFIX, Settings

log = structlog.get_logger(__name__)

_HOPELESS = (2, 3)
"""Exit statuses of a process that cannot start: 2 misconfigured, 3 uvicorn's failure to start."""
_LOOK_SECONDS = 0.2
_YOUNG_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 30.0
_KILL_MARGIN_SECONDS = 5.0
"""Time after drain_seconds in which a process may close its resources."""


@dataclass(eq=False, slots=True)
class Child:
    """One API process."""

    process: subprocess.Popen[bytes]
    notice: int
    """The pipe on which it reports that it drains; closed when it ends."""
    started_at: float
    draining: bool = False


def supervise(settings: Settings, redis_url: str) -> int:
    """Run the configured number of API processes until SIGTERM; returns the exit status."""
    with _listen(settings) as listener:
        return Supervisor(settings, redis_url, listener).run()


def _listen(settings: Settings) -> socket.socket:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        return socket.create_server(
            (str(address[0]), settings.port), family=family, backlog=settings.accept_backlog
        )
    except OSError as exc:
        raise ConfigurationError(
            f"cannot listen on {settings.host}:{settings.port}: {exc.strerror or exc}"
        ) from exc


class Supervisor:
    """Starts, replaces and ends the processes."""

    def __init__(self, settings: Settings, redis_url: str, listener: socket.socket) -> None:
        self._settings = settings
        self._environment = {**os.environ, f"{ENV_PREFIX}REDIS_URL": redis_url}
        self._listener = listener
        self._notices = selectors.DefaultSelector()
        self._totals = Totals()
        self._children: set[Child] = set()
        self._young_deaths = 0
        self._start_after = 0.0
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, and until the last process has ended."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._stop)
        log.info("api_processes_starting", processes=self._settings.api_workers)
        while not self._stopping:
            self._start_missing()
            self._look()
        self._end_all()
        return self._status

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _start_missing(self) -> None:
        serving = sum(not child.draining for child in self._children)
        if time.monotonic() >= self._start_after:
            for _ in range(self._settings.api_workers - serving):
                self._start_one()

    def _start_one(self) -> None:
        notice, theirs = os.pipe()
        counts, metrics = self._totals.adopt()
        self._notices.register(counts, selectors.EVENT_READ)
        with metrics:
            passed = (self._listener.fileno(), theirs, metrics.fileno())
            process = subprocess.Popen(
                [sys.executable, "-m", "api", *map(str, passed)],
                env=self._environment,
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )
        os.close(theirs)
        child = Child(process, notice, time.monotonic())
        self._children.add(child)
        self._notices.register(notice, selectors.EVENT_READ, child)
        log.info("api_process_started", pid=process.pid)

    def _look(self) -> None:
        for key, _ in self._notices.select(_LOOK_SECONDS):
            child: Child | None = key.data
            if child is None:
                self._read_counts(key.fileobj)
            elif os.read(child.notice, 4096):
                child.draining = True
                log.info("api_process_draining", pid=child.process.pid)
            else:
                self._bury(child)

    def _read_counts(self, process: Any) -> None:
        """Take what a process has counted; its socket is closed once it has ended."""
        descriptor = process.fileno()
        if not self._totals.read(process):
            self._notices.unregister(descriptor)

    def _bury(self, child: Child) -> None:
        self._notices.unregister(child.notice)
        os.close(child.notice)
        self._children.discard(child)
        status = child.process.wait()
        lived = time.monotonic() - child.started_at
        log.info("api_process_ended", pid=child.process.pid, status=status, lived=round(lived, 1))
        if self._stopping or (child.draining and status == 0):
            return
        if status in _HOPELESS:
            self._stopping, self._status = True, status
            return
        self._young_deaths = self._young_deaths + 1 if lived < _YOUNG_SECONDS else 0
        pause = min(_LONGEST_PAUSE_SECONDS, 2.0**self._young_deaths / 2)
        spread = random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
        self._start_after = time.monotonic() + pause * spread

    def _end_all(self) -> None:
        for child in self._children:
            child.process.terminate()
        deadline = time.monotonic() + self._settings.drain_seconds + _KILL_MARGIN_SECONDS
        while self._children and time.monotonic() < deadline:
            self._look()
        for child in self._children:
            log.error("api_process_killed", pid=child.process.pid)
            child.process.kill()
            child.process.wait()
