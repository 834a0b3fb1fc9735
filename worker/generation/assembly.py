"""The device's thread and what works beside it for lanes of steps, built as one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from common.settings import Settings
from worker.batching.turns import Turns
from worker.generation.remote_runner import RemoteRunner
from worker.generation.remote_teller import RemoteTeller
from worker.generation.rounds import Rounds
from worker.generation.stepper import Stepper
from worker.generation.teller import Teller
from worker.guard.calls import Call, Calls, Slot
from worker.jobs.leases import LaneLeases
from worker.lanes.device_time import DeviceTime
from worker.lanes.redis_health import RedisHealth
from worker.lanes.state import WorkerState
from worker.pipeline.error_policy import Retries
from worker.pipeline.finisher import Finisher
from worker.pipeline.runner import Runner
from worker.pipeline.scheduler import Scheduler
from worker.pipeline.shadow_runner import ShadowRunner
from worker.pipeline.starting import Starting
from worker.residency.model_host import ModelHost

_STEPS_OF_GRACE = 0.8


class Device(NamedTuple):
    """Who runs what the scheduler decides."""

    runner: Runner
    stepper: Stepper
    teller: Teller
    remote: RemoteRunner
    shadows: ShadowRunner

    @property
    def watched(self) -> tuple[Runner, Stepper, Teller, ShadowRunner]:
        """Those whose calls of models the watchdog looks at."""
        return self.runner, self.stepper, self.teller, self.shadows

    def start(self) -> None:
        """Start the device's thread, the teller's, and those of servers."""
        self.teller.start()
        self.remote.start()
        self.runner.start()

    def stop_steps(self, now: float, grace_seconds: float) -> None:
        """The worker stops: rows run on for the most of this time; the rest is for telling."""
        self.stepper.stop_at = now + grace_seconds * _STEPS_OF_GRACE

    def stop_telling(self, deadline: float) -> None:
        """Wait for jobs in servers as long as for those on rows, and tell what was said."""
        give_up_at = max(deadline, time.monotonic() + 1.0)
        self.remote.stop(self.stepper.stop_at, give_up_at)
        self.teller.stop(max(1.0, deadline - time.monotonic()))


def build_device(
    settings: Settings,
    state: WorkerState,
    leases: Mapping[str, LaneLeases],
    starting: Starting,
    turns: Turns,
    models: ModelHost,
    finisher: Finisher,
    device_time: DeviceTime,
    redis_health: RedisHealth,
    calls: Calls,
    *,
    on_device_lost: Callable[[str], None],
    on_stuck: Callable[[Slot, Call], None],
    retries: Retries,
) -> Device:
    """As the constructors of the parts take them."""
    shadows = ShadowRunner(
        *(state, calls),
        share=settings.shadow_share,
        max_batch=settings.shadow_max_batch,
        on_device_lost=on_device_lost,
        on_stuck=on_stuck,
    )
    scheduler = Scheduler(state, turns, models, shadows)
    rounds = Rounds(settings.stream_buffer)
    teller = Teller(
        *(state, leases, finisher, redis_health, calls),
        stream_seconds=settings.stream_seconds,
        rounds=rounds,
        pace_seconds=settings.stream_pace_ms / 1000,
    )
    stepper = Stepper(
        *(state, starting, rounds, finisher, device_time, calls),
        may_go_on=scheduler.may_go_on,
        on_device_lost=on_device_lost,
        on_stuck=on_stuck,
        retries=retries,
        turn_seconds=settings.generation_turn_ms / 1000,
    )
    runner = Runner(
        *(state, starting, scheduler, finisher, device_time, calls),
        on_device_lost=on_device_lost,
        on_stuck=on_stuck,
        retries=retries,
        run_step=stepper.run,
        end_steps=stepper.end,
    )
    remote_teller = RemoteTeller(
        *(state, leases, finisher, retries, settings.stream_seconds),
        pace_seconds=settings.stream_pace_ms / 1000,
    )
    remote = RemoteRunner(state, leases, starting, remote_teller, scheduler.touch)
    return Device(runner, stepper, teller, remote, shadows)
