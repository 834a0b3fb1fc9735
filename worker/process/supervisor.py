"""Runs one worker process per device until it is stopped.

A process that crashes is restarted, with a growing delay while it crashes soon after its start;
one that cannot be kept running ends them all with an error, so that the process manager
(Kubernetes, systemd, a person) sees it. A process that ends with status 0 was stopped on request,
by `celery control shutdown` or a signal of its own, and is not restarted.

A model may end its process in any way. What it ran is read from the marks that it left
(guard/marks.py), and a model that does so too often is taken out of service in the next one, so
that the others serve. A process that runs no Python code any more is killed.
"""

from __future__ import annotations

import contextlib
import json
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
from worker.guard.arrival import process_began
from worker.guard.marks import Marks, Ran, shared_file
from worker.guard.supervision import REPLACE
from worker.process.model_deaths import ModelDeaths

log = structlog.get_logger(__name__)

MISCONFIGURED = 2
"""The exit status of a process that cannot start as configured; it is not restarted."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_LOOK_SECONDS = 0.05
_LONGEST_LOOK_SECONDS = 0.5
_KILL_MARGIN_SECONDS = 15.0
"""Time after shutdown_grace_seconds in which the worker may publish and release jobs; it forces its
own end in less."""


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


@dataclass
class Child:
    """One device's process: how to start it, and its state."""

    device: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: frozenset[int] = frozenset()
    deaths: ModelDeaths = field(default_factory=lambda: ModelDeaths(0, 1))
    marks_file: int = field(default_factory=shared_file)
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float | None = 0.0
    """When to start it, by the steady clock; None while it runs or once it is not restarted."""
    young_deaths: int = 0
    beats: int = 0
    """The count of its watchdog's beats when it was last looked at."""
    silent_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.marks = Marks(self.marks_file)

    @property
    def over(self) -> bool:
        """Whether it has ended and will not be restarted."""
        return self.process is None and self.start_at is None

    def start(self, now: float) -> None:
        """Start it, pinned, in a process group of its own: Ctrl-C in a terminal is forwarded by the
        supervisor, once.
        """
        began = now if self.started_at else process_began()
        self.marks.clear()
        self.beats, self.silent_seconds = 0, 0.0
        out_of_service = json.dumps(self.deaths.out_of_service(now))
        told = (str(self.marks_file), out_of_service, str(self.deaths.hold), str(began))
        self.process = subprocess.Popen(
            [*self.command, *(f"--supervision={word}" for word in told)],
            pass_fds=(self.marks_file,),
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self.environment},
            start_new_session=True,
            preexec_fn=partial(_before_exec, os.getpid(), self.cores),
        )
        self.started_at, self.start_at = now, None
        log.info("worker_started", device=self.device, pid=self.process.pid)

    def poll(self) -> int | None:
        """Its exit status, once it has ended; what its models have started then ends too.

        Such a process would keep the ports and the connections that it inherited from its parent.
        """
        process = self.process
        if process is None:
            return None
        # Unreaped, so that its number still means its group.
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()

    def send(self, number: int) -> None:
        """Send it a signal. Popen's own methods would reap it where it is dead."""
        if self.process is not None:
            os.kill(self.process.pid, number)

    def silence(self, passed: float) -> float:
        """For how long it has run no Python code, by a look after this time; 0 before it began to
        serve.
        """
        beats = self.marks.beats
        if beats == self.beats and beats:
            # A look that came late says nothing: then we stood still as well.
            self.silent_seconds += min(passed, _LONGEST_LOOK_SECONDS)
        else:
            self.beats, self.silent_seconds = beats, 0.0
        return self.silent_seconds


def _before_exec(parent_pid: int, cores: frozenset[int]) -> None:
    die_with_parent(parent_pid)
    stay_on(cores)


class Supervisor:
    """Starts and restarts the children, and forwards signals; `run` returns the exit status."""

    def __init__(
        self,
        children: Sequence[Child],
        policy: RestartPolicy,
        stop_seconds: float,
        frozen_seconds: float = 0.0,
    ) -> None:
        """stop_seconds is how long a child may take to stop; frozen_seconds how long it may run no
        Python code before it is killed, 0 for any time.
        """
        self._children = children
        self._policy = policy
        self._stop_seconds = stop_seconds
        self._frozen_seconds = frozen_seconds
        self._looked_at = time.monotonic()
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
        passed, self._looked_at = now - self._looked_at, now
        while self._received:
            self._stop(self._received.pop(0), now)
        for child in self._children:
            if child.process is None:
                if child.start_at is not None and child.start_at <= now:
                    child.start(now)
            elif (status := child.poll()) is not None:
                child.process = None
                self._judge(child, status, now)
            elif self._is_frozen(child, passed):
                log.error("worker_frozen", device=child.device, seconds=self._frozen_seconds)
                child.send(signal.SIGKILL)
                child.silent_seconds = 0.0
        if self._kill_at is not None and self._kill_at <= now:
            self._kill()

    def _is_frozen(self, child: Child, passed: float) -> bool:
        # One that stops has its time anyway, and its watchdog ends before it does.
        if not self._frozen_seconds or self._kill_at is not None:
            return False
        return child.silence(passed) > self._frozen_seconds

    def _stop(self, number: int, now: float) -> None:
        """Forward a signal, and start no more processes."""
        self._passed_on.add(number)
        if self._kill_at is None:
            self._kill_at = now + self._stop_seconds
        for child in self._children:
            child.start_at = None
            if child.process is not None:
                child.send(number)

    def _kill(self) -> None:
        for child in self._children:
            if child.process is not None:
                log.error("worker_killed", device=child.device, waited_seconds=self._stop_seconds)
                child.send(signal.SIGKILL)

    def _judge(self, child: Child, status: int, now: float) -> None:
        """Decide on the end of a process: nothing, a restart, or the end of all."""
        if self._kill_at is not None:
            # A signal before Python's handlers are installed ends a process too.
            if status != 0 and -status not in self._passed_on:
                log.error("worker_ended_badly", device=child.device, status=status)
                self._status = self._status or 1
            return
        lived, evidence = now - child.started_at, child.marks.read()
        # Once it has served, a status counts only at an orderly end: a model may exit with any.
        said = status if evidence.orderly or not child.marks.beats else None
        if said == 0:
            log.warning("worker_left", device=child.device, lived_seconds=round(lived, 1))
        elif said == REPLACE:
            child.deaths.learn(evidence)
            log.info("worker_replaced", device=child.device, lived_seconds=round(lived, 1))
            child.start_at = now + (self._policy.first_seconds if lived < 1 else 0.0)
        elif said == MISCONFIGURED:
            self._give_up(child, status, now)
        else:
            self._bury(child, status, child.deaths.judge(evidence, now), now)

    def _bury(self, child: Child, status: int, blamed: Sequence[Ran], now: float) -> None:
        """Plan the restart of a process that died, or give up."""
        lived = now - child.started_at
        # One that a model ended does not count: the model is taken out before long.
        young = lived < self._policy.young_seconds and not (blamed and child.deaths.is_bounded)
        child.young_deaths = child.young_deaths + 1 if young else 0
        if child.young_deaths >= self._policy.max_young_deaths:
            self._give_up(child, status, now)
            return
        pause = self._policy.pause(child.young_deaths)
        child.start_at = now + pause
        log.error(
            "worker_died",
            device=child.device,
            status=status,
            lived_seconds=round(lived, 1),
            again_in_seconds=round(pause, 2),
            during=[f"{one.verb} {one.model}" for one in blamed],
            out_of_service=list(child.deaths.out_of_service(now)),
        )

    def _give_up(self, child: Child, status: int, now: float) -> None:
        log.error(
            "worker_given_up",
            device=child.device,
            status=status,
            deaths=child.young_deaths,
            consequence="the other workers drain and end as well",
        )
        self._status = MISCONFIGURED if status == MISCONFIGURED else 1
        self._stop(signal.SIGTERM, now)


def run_fleet(settings: Settings, placements: Sequence[Placement], name: str | None = None) -> int:
    """Run one process per placement until SIGTERM; returns the exit status.

    The embedded Redis, where there is one, belongs to this process: no child's end stops it.
    """
    redis = obtain_redis(settings)
    try:
        check_format(redis.url, settings)
        children = [
            child_for(settings, redis.url, placement, number, name, alone=len(placements) == 1)
            for number, placement in enumerate(placements)
        ]
        log.info("workers_starting", devices=[child.device for child in children])
        stop_seconds = settings.shutdown_grace_seconds + _KILL_MARGIN_SECONDS
        frozen_seconds = settings.frozen_seconds
        return Supervisor(children, RestartPolicy(), stop_seconds, frozen_seconds).run()
    finally:
        redis.stop()


def child_for(
    settings: Settings,
    redis_url: str,
    placement: Placement,
    number: int,
    name: str | None,
    *,
    alone: bool = False,
) -> Child:
    """How to start one placement's process; node names, unless it is alone, and health ports are
    numbered.
    """
    command = [sys.executable, "-m", "worker", "--placed-on", placement.device]
    if name:
        command += ["--name", name if alone else f"{number}-{name}"]
    environment = {**placement.environment(), f"{ENV_PREFIX}REDIS_URL": redis_url}
    if settings.worker_health_port:
        port = settings.worker_health_port + number
        environment[f"{ENV_PREFIX}WORKER_HEALTH_PORT"] = str(port)
    deaths = ModelDeaths(settings.model_max_deaths, settings.max_attempts)
    return Child(placement.device, command, environment, placement.cores, deaths)
