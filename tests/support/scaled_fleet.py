"""Real worker processes, started and told to leave as KEDA and the HPA would, by `/v1/lanes`.

`python -m tests.support.scaled_fleet PICTURE.png` runs two loads from 0 replicas and draws the
curve; it needs matplotlib, which nothing else here does.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.support.keda import (
    POLL_SECONDS,
    SYNC_SECONDS,
    Behavior,
    Hpa,
    Keda,
    Policy,
    wanted_replicas,
)
from tests.support.lanes import LANE, Feeder, RecordedLane, await_settled
from tests.support.stack import ApiProcess, Process, Stack, running_redis, wait_until

SPEED = 10.0
"""The rules' seconds that pass in one."""
TARGET = 40.0
"""Jobs of demand per replica."""
MOST = 4
COOLDOWN_SECONDS = 90.0
DOWN = Behavior(60, (Policy("Pods", 1, 30),))


class Reading(NamedTuple):
    """One look, in the rules' seconds since the beginning."""

    at: float
    demand: int | None
    replicas: int
    """As set."""
    running: int
    """Processes, those that are leaving included."""


@dataclass
class ScaledFleet:
    """The replicas of one lane."""

    stack: Stack
    api: ApiProcess
    readings: list[Reading] = field(default_factory=list)
    ends: list[tuple[int, float]] = field(default_factory=list)
    """Exit status of each worker that was told to leave, and the seconds it took."""
    _workers: list[Process] = field(default_factory=list)
    _leaving: list[tuple[Process, float]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def replicas(self) -> int:
        """As set."""
        return len(self._workers)

    def start(self) -> ScaledFleet:
        """Begin to scale."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """End; the workers stay as they are."""
        self._stop.set()
        if self._thread:
            self._thread.join(30)

    def _run(self) -> None:
        keda = Keda(cooldown_seconds=COOLDOWN_SECONDS)
        hpa = Hpa(1, MOST, down=DOWN)
        began, poll_at, sync_at = time.monotonic(), 0.0, 0.0
        with httpx.Client(timeout=5) as client:
            while not self._stop.wait(0.1):
                now = (time.monotonic() - began) * SPEED
                self._reap()
                if now < min(poll_at, sync_at):
                    continue
                demand = self._demand(client)
                if now >= poll_at:
                    poll_at = now + POLL_SECONDS
                    self._set(keda.poll(now, self.replicas, demand))
                if now >= sync_at:
                    sync_at = now + SYNC_SECONDS
                    if demand is not None:
                        wanted = wanted_replicas(self.replicas, demand, TARGET)
                        self._set(hpa.sync(now, self.replicas, wanted))
                running = len(self._workers) + len(self._leaving)
                self.readings.append(Reading(now, demand, self.replicas, running))

    def _demand(self, client: httpx.Client) -> int | None:
        try:
            answer = client.get(f"{self.api.url}/v1/lanes")
            return int(answer.raise_for_status().json()["demand"][LANE])
        except httpx.HTTPError:
            return None

    def _set(self, replicas: int | None) -> None:
        if replicas is None:
            return
        while len(self._workers) < replicas:
            self._workers.append(self.stack._start("worker", ["-m", "worker"], LANE, {}))
        while len(self._workers) > replicas:  # Kubernetes chooses which by itself
            worker = self._workers.pop(random.randrange(len(self._workers)))
            worker.signal(signal.SIGTERM)
            self._leaving.append((worker, time.monotonic()))

    def _reap(self) -> None:
        for worker, told_at in list(self._leaving):
            if not worker.alive:
                self._leaving.remove((worker, told_at))
                self.ends.append((worker.popen.wait(), time.monotonic() - told_at))


def two_loads(stack: Stack, seconds: float, per_second: float) -> tuple[ScaledFleet, list[str]]:
    """Let the fleet go from 0 to some and back, twice; returns it and the jobs' ids."""
    RecordedLane.on(stack, max_batch=8)
    fleet = ScaledFleet(stack, stack.api(LANE)).start()
    jobs: list[str] = []
    for _ in range(2):
        params: dict[str, object] = {"sleep_ms": 100}
        feeder = Feeder(fleet.api.url, per_second, params=params, per_request=5).start()
        time.sleep(seconds)
        ids = list(feeder.stop())
        assert not feeder.refused, feeder.refused
        await_settled(stack, ids, 180)
        wait_until(lambda: fleet.replicas == 0 and not fleet._leaving, 120, "no replica to be left")
        jobs += ids
    fleet.stop()
    return fleet, jobs


def draw(readings: list[Reading], path: Path) -> None:
    """The curve of replicas and demand over the rules' time."""
    import matplotlib.pyplot as plt

    figure, upper = plt.subplots(figsize=(8, 3.2), dpi=90)
    at = [one.at / 60 for one in readings]
    upper.step(at, [one.replicas for one in readings], where="post", label="replicas, as set")
    upper.step(
        at, [one.running for one in readings], where="post", ls=":", label="processes, draining too"
    )
    upper.set(xlabel="minutes", ylabel="replicas", ylim=(0, MOST + 0.5))
    lower = upper.twinx()
    lower.fill_between(at, [one.demand or 0 for one in readings], alpha=0.2, color="grey")
    lower.set(ylabel="demand (jobs), grey", ylim=(0, None))
    upper.legend(loc="upper right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Run, print the figures, draw."""
    with tempfile.TemporaryDirectory() as name, running_redis(Path(name) / "redis") as server:
        stack = Stack(server.url, Path(name))
        try:
            fleet, jobs = two_loads(stack, 15, 150)
            states = stack.states(jobs)
        finally:
            stack.close()
    print(f"{figures(fleet)}; {states}")
    draw(fleet.readings, Path(sys.argv[1]))


def figures(fleet: ScaledFleet) -> str:
    """What happened, in a line."""
    most = max(one.replicas for one in fleet.readings)
    longest = max(seconds for _, seconds in fleet.ends)
    demand = max(one.demand or 0 for one in fleet.readings)
    return (
        f"demand up to {demand}, replicas up to {most}, {len(fleet.ends)} scale-ins, "
        f"longest exit {longest:.1f} s"
    )


if __name__ == "__main__":
    main()
