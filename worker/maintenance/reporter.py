"""Writes this worker's report to Redis twice a second."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Mapping
from itertools import chain, starmap
from typing import NamedTuple

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from common.redis.keys import (
    OUTBOX,
    OUTBOX_FAILED,
    WEIGHTS_DIGESTS,
    WORKER_TTL_SECONDS,
    WORKERS,
    worker_key,
)
from common.redis.scripts import Scripts
from common.worker_report import WorkerReport
from worker.jobs.worker_counts import WorkerCounts
from worker.lanes.redis_health import RedisHealth
from worker.maintenance.caretaker import Caretaker

_REPORT_SECONDS = 0.5
_OUTBOX_SECONDS = 5.0


class ReportCall(NamedTuple):
    """The first words of the report script; the lanes' follow."""

    worker: str
    report: bytes
    ttl_seconds: int


class LaneFingerprint(NamedTuple):
    """The weights digest of a lane whose results may be cached."""

    lane: str
    fingerprint: str


class Reporter(Caretaker):
    """Writes the worker's report, and deletes it at shutdown."""

    def __init__(
        self,
        client: Redis,
        worker: str,
        redis_health: RedisHealth,
        report: Callable[[float], WorkerReport],
        weights_digests: Callable[[], Mapping[str, str]],
        counts: WorkerCounts,
    ) -> None:
        """report is called with the steady time; counts are told how long the outbox is."""
        super().__init__("reporter")
        self._client = client
        self._scripts = Scripts(client)
        self._worker = worker
        self._redis_health = redis_health
        self._report = report
        self._weights_digests = weights_digests
        self._keys = (worker_key(worker), WORKERS, WEIGHTS_DIGESTS)
        self._counts = counts
        self._outbox_at = 0.0

    def stop(self) -> None:
        """End the thread, and delete the worker's report so that the API stops counting on this
        worker before the report's TTL ends.
        """
        super().stop()
        with contextlib.suppress(RedisError):
            self._scripts.run("report_worker", self._keys, (self._worker,))

    def interval(self) -> float:
        """Half a second, jittered so that workers do not report in step."""
        return _REPORT_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load

    def run_once(self) -> None:
        """Write the report once."""
        lanes = starmap(LaneFingerprint, self._weights_digests().items())
        report = self._report(time.monotonic())
        args: list[str | bytes | int | float] = [
            *ReportCall(self._worker, report.dump(), WORKER_TTL_SECONDS),
            *chain.from_iterable(lanes),
        ]
        self._scripts.run("report_worker", self._keys, args)
        now = time.monotonic()
        self._redis_health.answered(now)
        if now >= self._outbox_at:
            self._outbox_at = now + _OUTBOX_SECONDS
            self._look_at_outbox()

    def _look_at_outbox(self) -> None:
        """Read how long it is; unknown where the server's users may not."""
        counts, client = self._counts, self._client
        try:
            counts.outbox_entries = client.xlen(OUTBOX)
            counts.outbox_failed = client.xlen(OUTBOX_FAILED)
        except ResponseError:
            counts.outbox_entries = counts.outbox_failed = None
