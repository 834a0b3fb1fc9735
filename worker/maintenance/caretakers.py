"""Builds the caretakers of one worker, each with connections of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from redis import Redis

from common.inputs.blobs import Blobs
from common.redis.connect import connect
from common.settings import Settings
from common.worker_report import WorkerReport
from worker.jobs.leases import LaneLeases, LeasePolicy
from worker.lanes.redis_health import RedisHealth
from worker.lanes.state import WorkerState
from worker.maintenance.caretaker import Caretaker
from worker.maintenance.reaper import LeaseReaper
from worker.maintenance.reconciler import Reconciler
from worker.maintenance.renewer import LeaseRenewer
from worker.maintenance.reporter import Reporter
from worker.maintenance.sweeper import InputSweeper


def build_caretakers(
    settings: Settings,
    worker: str,
    state: WorkerState,
    redis_health: RedisHealth,
    redis_url: str,
    report: Callable[[float], WorkerReport],
    weights_digests: Callable[[], Mapping[str, str]],
    blobs: Blobs | None,
) -> list[Caretaker]:
    """Those that every worker has, and the sweeper of stored inputs where there is a store."""

    def new_client() -> Redis:
        return connect(redis_url, settings)

    def leases() -> dict[str, LaneLeases]:
        return leases_of(settings, state, worker, new_client())

    found: list[Caretaker] = [
        LeaseRenewer(state, leases(), redis_health, settings.renew_interval_seconds),
        LeaseReaper(state.lanes, leases(), settings.reap_interval_seconds),
        Reporter(new_client(), worker, redis_health, report, weights_digests, state.counts),
        Reconciler(new_client(), list(state.lanes), worker, settings.result_ttl_seconds),
    ]
    if blobs is not None:
        sweep, orphan = settings.blob_sweep_seconds, settings.blob_orphan_seconds
        found.append(InputSweeper(new_client(), blobs, worker, sweep, orphan))
    return found


def leases_of(
    settings: Settings, state: WorkerState, worker: str, client: Redis
) -> dict[str, LaneLeases]:
    """The leases of every lane, over this client."""
    policy = LeasePolicy.of(settings)
    return {lane: LaneLeases(client, lane, worker, policy, state.counts) for lane in state.lanes}
