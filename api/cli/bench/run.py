"""Run the stages of a bench, one after the other."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from api.cli.bench.figures import Stage, percentile, window_seconds, windows_of
from api.cli.bench.fleet_facts import Ran, ran_between, read_workers
from api.cli.bench.generator import Address, Load, Tally
from api.cli.bench.inputs import Given, Target, requests
from api.cli.bench.limit import limit
from api.client import Client
from api.client.calls import headers_of
from common.errors import ConfigurationError

_LIMIT_SECONDS = 0.5
_LOOK_SECONDS = 0.05
_SPARE_FILES = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    url: str
    model: str
    kind: str
    clients: Sequence[int]
    """Of each stage."""
    seconds: float
    """Of each stage, counted after its warm-up."""
    warm_seconds: float
    most: int | None = None
    """Requests of each stage, where fewer than the time allows."""
    timeout_seconds: float = 120.0
    repeat_inputs: bool = False
    given: Given = field(default_factory=Given)
    params: dict[str, Any] | None = None

    @property
    def address(self) -> Address:
        """Of the API."""
        parts = urlsplit(self.url)
        tls = parts.scheme == "https"
        return Address(str(parts.hostname), parts.port or (443 if tls else 80), tls)

    @property
    def target(self) -> Target:
        """What every request says."""
        parts = urlsplit(self.url)
        wait = max(1, min(30, int(self.timeout_seconds)))
        root = parts.path.rstrip("/")
        netloc = parts.netloc.rpartition("@")[2]
        return Target(netloc, root, self.model, self.kind, headers_of(None), wait, self.params)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Every stage, and what the generator reaches by itself."""

    stages: list[Stage]
    limit_per_second: float


@dataclass(frozen=True, slots=True)
class Used:
    """A span of the steady clock, and what this process did in it, in seconds."""

    began: float
    ended: float
    cpu: float = 0.0
    waited: float | None = None
    """For a core; None where the system does not tell."""

    @property
    def waited_share(self) -> float | None:
        """Of the time in which it needed a core."""
        if self.waited is None or self.waited + self.cpu <= 0:
            return None
        return round(self.waited / (self.waited + self.cpu), 4)


class Meter:
    """Counts from its making until `read`."""

    def __init__(self) -> None:
        self._began, self._cpu, self._waited = time.monotonic(), time.process_time(), _waited()

    def read(self) -> Used:
        """What was used since."""
        waited = _waited()
        known = waited is not None and self._waited is not None
        return Used(
            self._began,
            time.monotonic(),
            time.process_time() - self._cpu,
            waited - self._waited if known else None,  # type: ignore[operator]  # both are known
        )


def _waited() -> float | None:
    """Seconds that this thread, on which the loop runs, was ready and had no core."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def run(
    plan: Plan, client: Client, on_stage: Callable[[Stage], None] = lambda _stage: None
) -> Outcome:
    """Run every stage. Raises ConfigurationError for inputs that cannot be read, or too many
    clients for this system.
    """
    _allow_open_files(max(plan.clients))
    return uvloop.run(_run(plan, client, on_stage))


def _allow_open_files(clients: int) -> None:
    """Raise this process' own limit where that is needed and possible."""
    wanted = clients + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise ConfigurationError(
            f"{clients} clients need {wanted} open files, and the system allows {hard}: fewer "
            "clients, or raise `ulimit -Hn`"
        )
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _run(plan: Plan, client: Client, on_stage: Callable[[Stage], None]) -> Outcome:
    reach = await limit(plan.target, plan.given, max(plan.clients), _LIMIT_SECONDS)
    stages = []
    for clients in plan.clients:
        stages.append(await _stage(plan, client, clients))
        on_stage(stages[-1])
    return Outcome(stages, reach)


async def _stage(plan: Plan, client: Client, clients: int) -> Stage:
    inputs = requests(plan.target, plan.given, repeat=plan.repeat_inputs)
    load = Load(plan.address, plan.target, inputs, clients, plan.timeout_seconds, plan.most)
    if plan.most is not None:
        before = await asyncio.to_thread(read_workers, client)
        return await _counted(plan, client, load, before)
    load.start()
    await _warm_up(load, plan.warm_seconds)
    before = await asyncio.to_thread(read_workers, client)
    load.count()
    return await _counted(plan, client, load, before)


async def _warm_up(load: Load, seconds: float) -> None:
    """These seconds, and until each client has had an answer, ten times as long at most."""
    began = time.monotonic()
    await asyncio.sleep(seconds)
    while len(load.tally.at) < load.clients and time.monotonic() - began < 10 * seconds:
        await asyncio.sleep(_LOOK_SECONDS)


async def _counted(plan: Plan, client: Client, load: Load, before: Any) -> Stage:
    busy, meter = _machine_busy(), Meter()
    if plan.most is not None:
        load.start()
    with suppress(TimeoutError):
        await asyncio.wait_for(load.done.wait(), plan.seconds)
    used = meter.read()
    machine = _share(busy, _machine_busy())
    after = await asyncio.to_thread(read_workers, client)
    tally = await load.stop()
    ran = ran_between(before, after, plan.model)
    return stage_of(plan.model, load.clients, tally, used, ran, machine)


def stage_of(
    model: str,
    clients: int,
    tally: Tally,
    used: Used,
    ran: Ran | None,
    machine_busy: float | None = None,
) -> Stage:
    """The figures of what came within this span of the steady clock."""
    began, ended = used.began, used.ended
    answers = [
        (at - began, latency)
        for at, latency in zip(tally.at, tally.latency_ms, strict=True)
        if began <= at <= ended
    ]
    ordered = sorted(latency for _, latency in answers)
    seconds = ended - began
    length = window_seconds(seconds, percentile(ordered, 0.5) if ordered else 0.0)
    figures = {
        "p50_ms": round(percentile(ordered, 0.5), 3),
        "p95_ms": round(percentile(ordered, 0.95), 3),
        "p99_ms": round(percentile(ordered, 0.99), 3),
        "worst_ms": round(ordered[-1], 3),
    } if ordered else {}  # fmt: skip
    return Stage(
        model,
        clients,
        round(seconds, 3),
        len(answers),
        **figures,
        errors=dict(tally.errors),
        reused=tally.reused,
        windows=windows_of(answers, seconds, length),
        batches=dict(ran.batches) if ran else _batches_of(tally),
        device_busy=None if ran is None or ran.device_busy is None else round(ran.device_busy, 4),
        generator_busy=round(used.cpu / seconds, 4),
        generator_waited=used.waited_share,
        machine_busy=None if machine_busy is None else round(machine_busy, 4),
    )


def _batches_of(tally: Tally) -> dict[int, int]:
    """From the answers, where the workers' reports may not be read: each counts a part of one."""
    return {size: max(1, round(jobs / size)) for size, jobs in tally.batch_sizes.items()}


def _machine_busy() -> tuple[float, float] | None:
    """Ticks in use and in all since the machine's start; None where /proc does not tell."""
    try:
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    ticks = [float(word) for word in words]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def _share(before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def load_average() -> float | None:
    """Of the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
