"""Runs one worker process per device until it is stopped.

A process that crashes is restarted, with a growing delay while it crashes soon after its start;
one that cannot be kept running ends them all with an error, so that the process manager
(Kubernetes, systemd, a person) sees it. A process that ends with status 0 was stopped on request,
by `celery control shutdown` or a signal of its own, and is not restarted.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FrameType

import structlog

from common.processes import die_with_parent
from common.redis.embedded_server import obtain_redis
from common.redis.format_version import check_format
from common.settings import ENV_PREFIX, Settings
from worker.devices.placement import Placement, stay_on

log = structlog.get_logger(__name__)

MISCONFIGURED = 2
"""The exit status of a process that cannot start as configured; it is not restarted."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_LOOK_SECONDS = 0.05
_KILL_MARGIN_SECONDS = 5.0
"""Time after shutdown_grace_seconds in which the worker may publish and release jobs."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When to restart a process that ended, and when to stop trying."""

    first_seconds: float = 1.0
    cap_seconds: float = 30.0
    young_seconds: float = 60.0
    """A process that ran longer than this resets the count of early crashes."""
    max_young_deaths: int = 8
    """Consecutive early crashes; with the pauses above, about a minute and a half of restarts."""

    def pause(self, young_deaths: int) -> float:
        """Seconds until the next start: doubled each time, less a random part of up to half so
        that many are spread.
        """
        longest = min(self.cap_seconds, self.first_seconds * 2.0 ** max(0, young_deaths - 1))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


@dataclass(slots=True)
class Child:
    """One device's process: how to start it, and its state."""

    device: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: frozenset[int] = frozenset()
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float | None = 0.0
    """When to start it, by the steady clock; None while it runs or once it is not restarted."""
    young_deaths: int = 0

    @property
    def over(self) -> bool:
        """Whether it has ended and will not be restarted."""
        return self.process is None and self.start_at is None

    def start(self, now: float) -> None:
        """Start it, pinned, in a process group of its own: Ctrl-C in a terminal is forwarded by the
        supervisor, once.
        """
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self.environment},
            start_new_session=True,
            preexec_fn=partial(_before_exec, os.getpid(), self.cores),
        )
        self.started_at, self.start_at = now, None
        log.info("worker_started", device=self.device, pid=self.process.pid)


def _before_exec(parent_pid: int, cores: frozenset[int]) -> None:
    die_with_parent(parent_pid)
    stay_on(cores)


class Supervisor:
    """Starts and restarts the children, and forwards signals; `run` returns the exit status."""

    def __init__(
        self, children: Sequence[Child], policy: RestartPolicy, stop_seconds: float
    ) -> None:
        self._children = children
        self._policy = policy
        self._stop_seconds = stop_seconds
        self._received: list[int] = []
        self._passed_on: set[int] = set()
        self._kill_at: float | None = None
        self._status = 0

    def run(self) -> int:
        """Run until every child has ended and none is to be restarted; 0 when that was requested.

        Call in the main thread, where Python delivers signals.
        """
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            while not all(child.over for child in self._children):
                self._look(time.monotonic())
                time.sleep(_LOOK_SECONDS)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return self._status

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._received.append(number)

    def _look(self, now: float) -> None:
        while self._received:
            self._stop(self._received.pop(0), now)
        for child in self._children:
            if child.process is None:
                if child.start_at is not None and child.start_at <= now:
                    child.start(now)
            elif (status := child.process.poll()) is not None:
                child.process = None
                self._judge(child, status, now)
        if self._kill_at is not None and self._kill_at <= now:
            self._kill()

    def _stop(self, number: int, now: float) -> None:
        """Forward a signal, and start no more processes."""
        self._passed_on.add(number)
        if self._kill_at is None:
            self._kill_at = now + self._stop_seconds
        for child in self._children:
            child.start_at = None
            if child.process is not None:
                child.process.send_signal(number)

    def _kill(self) -> None:
        for child in self._children:
            if child.process is not None:
                log.error("worker_killed", device=child.device, waited_seconds=self._stop_seconds)
                child.process.kill()

    def _judge(self, child: Child, status: int, now: float) -> None:
        """Decide on the end of a process: nothing, a restart, or the end of all."""
        if self._kill_at is not None:
            # A signal before Python's handlers are installed ends a process too.
            if status != 0 and -status not in self._passed_on:
                log.error("worker_ended_badly", device=child.device, status=status)
                self._status = self._status or 1
            return
        lived = now - child.started_at
        if status == 0:
            log.warning("worker_left", device=child.device, lived_seconds=round(lived, 1))
            return
        young = lived < self._policy.young_seconds
        child.young_deaths = child.young_deaths + 1 if young else 0
        if status == MISCONFIGURED or child.young_deaths >= self._policy.max_young_deaths:
            log.error(
                "worker_given_up",
                device=child.device,
                status=status,
                deaths=child.young_deaths,
                consequence="the other workers drain and end as well",
            )
            self._status = MISCONFIGURED if status == MISCONFIGURED else 1
            self._stop(signal.SIGTERM, now)
            return
        pause = self._policy.pause(child.young_deaths)
        child.start_at = now + pause
        log.error(
            "worker_died",
            device=child.device,
            status=status,
            lived_seconds=round(lived, 1),
            again_in_seconds=round(pause, 2),
        )


def run_fleet(settings: Settings, placements: Sequence[Placement], name: str | None = None) -> int:
    """Run one process per placement until SIGTERM; returns the exit status.

    The embedded Redis, where there is one, belongs to this process: no child's end stops it.
    """
    redis = obtain_redis(settings)
    try:
        check_format(redis.url, settings)
        children = [
            child_for(settings, redis.url, placement, number, name)
            for number, placement in enumerate(placements)
        ]
        log.info("workers_starting", devices=[child.device for child in children])
        stop_seconds = settings.shutdown_grace_seconds + _KILL_MARGIN_SECONDS
        return Supervisor(children, RestartPolicy(), stop_seconds).run()
    finally:
        redis.stop()


def child_for(
    settings: Settings, redis_url: str, placement: Placement, number: int, name: str | None
) -> Child:
    """How to start one placement's process; node names and health ports are numbered."""
    command = [sys.executable, "-m", "worker", "--placed-on", placement.device]
    if name:
        command += ["--name", f"{number}-{name}"]
    environment = {**placement.environment(), f"{ENV_PREFIX}REDIS_URL": redis_url}
    if settings.worker_health_port:
        port = settings.worker_health_port + number
        environment[f"{ENV_PREFIX}WORKER_HEALTH_PORT"] = str(port)
    return Child(placement.device, command, environment, placement.cores)
