"""Run the stages of a bench, one after the other."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop

from api.cli.bench.figures import Stage
from api.cli.bench.fleet_facts import ran_between, read_workers
from api.cli.bench.generator import Address, Load
from api.cli.bench.inputs import Given, Target, requests
from api.cli.bench.limit import limit
from api.cli.bench.meter import Meter, machine_busy, share_between
from api.cli.bench.pooling import Turn, stage_of
from api.client import Client
from api.client.calls import headers_of
from common.errors import ConfigurationError
from common.worker_report import WorkerReport

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
    rounds: int = 1
    """Turns of each stage, there and back, so that what else the machine does falls on all."""

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
    interrupted: bool = False
    """Whether Ctrl-C ended it: the stages are those that were finished before."""


def run(
    plan: Plan, client: Client, on_stage: Callable[[Stage], None] = lambda _stage: None
) -> Outcome:
    """Run every stage; after Ctrl-C those that were finished before. Raises ConfigurationError for
    inputs that cannot be read, or too many clients for this system.
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
    reach, interrupted = 0.0, False
    turns: dict[int, list[Turn]] = {clients: [] for clients in plan.clients}
    try:
        reach = await limit(plan.target, plan.given, max(plan.clients), _LIMIT_SECONDS)
        for number in range(plan.rounds):
            for clients in plan.clients if number % 2 == 0 else reversed(plan.clients):
                turns[clients].append(await _turn(plan, client, clients))
                on_stage(stage_of(plan.model, clients, turns[clients][-1:]))
    except asyncio.CancelledError:  # Ctrl-C; nothing else cancels it
        interrupted = True
    stages = [stage_of(plan.model, clients, taken) for clients, taken in turns.items() if taken]
    return Outcome(stages, reach, interrupted)


async def _turn(plan: Plan, client: Client, clients: int) -> Turn:
    inputs = requests(plan.target, plan.given, repeat=plan.repeat_inputs)
    load = Load(plan.address, plan.target, inputs, clients, plan.timeout_seconds, plan.most)
    try:
        if plan.most is not None:
            before = await asyncio.to_thread(read_workers, client)
            return await _counted(plan, client, load, before)
        load.start()
        await _warm_up(load, plan.warm_seconds)
        before = await asyncio.to_thread(read_workers, client)
        load.count()
        return await _counted(plan, client, load, before)
    finally:
        await load.stop()  # of a turn that is interrupted; otherwise it has stopped


async def _warm_up(load: Load, seconds: float) -> None:
    """These seconds, and until each client has had an answer, ten times as long at most."""
    began = time.monotonic()
    await asyncio.sleep(seconds)
    while len(load.tally.at) < load.clients and time.monotonic() - began < 10 * seconds:
        await asyncio.sleep(_LOOK_SECONDS)


async def _counted(
    plan: Plan, client: Client, load: Load, before: list[WorkerReport] | None
) -> Turn:
    busy, meter = machine_busy(), Meter()
    if plan.most is not None:
        load.start()
    with suppress(TimeoutError):
        await asyncio.wait_for(load.done.wait(), plan.seconds / plan.rounds)
    used = meter.read()
    machine = share_between(busy, machine_busy())
    after = await asyncio.to_thread(read_workers, client)
    tally = await load.stop()
    return Turn(tally, used, ran_between(before, after, plan.model), machine)
