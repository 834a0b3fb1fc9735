"""Caretakers, each a thread with a connection of its own.

The renewer extends what is in our hands, whatever the other threads are
stuck in. The reaper returns what somebody else's dead hands hold; every
worker runs one, jittered and without a mutex, because the script rechecks
each lease by the server's clock. The sweeper removes large inputs whose job
is over from where they are kept outside of Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, cast

import structlog
from redis import Redis
from redis.exceptions import RedisError

from common.errors import InputStoreUnavailable
from common.inputs.blobs import Blobs
from common.redis.keys import (
    ALIASES,
    BLOB_SWEEP,
    FINGERPRINTS,
    WORKER_TTL_SECONDS,
    WORKERS,
    blob_key,
    worker_key,
)
from common.redis.scripts import Scripts
from worker.jobs.leases import LaneLeases
from worker.lanes.lane import Lane

if TYPE_CHECKING:
    from worker.engine import Engine

log = structlog.get_logger(__name__)

_REAP_SECONDS = 1.0
_REPORT_SECONDS = 0.5
_HURRY_SECONDS = 0.3
_AFTER_TROUBLE_SECONDS = 2.0


class _Caretaker(ABC):
    """A thread that runs `run_once` at intervals until it is stopped."""

    def __init__(self, engine: Engine, client: Redis, name: str) -> None:
        self._engine = engine
        self._client = client
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._leases = {
            lane: LaneLeases(client, lane, engine.worker, engine.settings) for lane in engine.lanes
        }

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the round in progress."""
        self._stopping.set()
        self._thread.join(2)

    @abstractmethod
    def interval(self) -> float:
        """Seconds until the next round."""

    @abstractmethod
    def run_once(self) -> None:
        """One round; may raise RedisError."""

    @abstractmethod
    def on_trouble(self) -> None:
        """Redis did not take the round."""

    def _run(self) -> None:
        while not self._stopping.wait(self.interval()):
            try:
                self.run_once()
            except RedisError as exc:
                log.warning("caretaker_delayed", role=self._thread.name, error=str(exc))
                self.on_trouble()
            except Exception:
                log.exception("caretaker_failed", role=self._thread.name)


class Renewer(_Caretaker):
    """Extends the leases in our hands and notes which were lost."""

    def __init__(self, engine: Engine, client: Redis) -> None:
        super().__init__(engine, client, "renewer")
        self._in_trouble = False

    def interval(self) -> float:
        """The renewal interval from the settings; short until Redis is back."""
        normal = self._engine.settings.renew_interval_seconds
        return min(normal, _HURRY_SECONDS) if self._in_trouble else normal

    def on_trouble(self) -> None:
        """Renew as soon as Redis is back, before anybody sweeps."""
        self._in_trouble = True

    def run_once(self) -> None:
        """Renew every lease in hand."""
        for lane in self._engine.lanes.values():
            with self._engine.changed:
                tags = list(lane.in_hand)
            if not tags:
                continue
            lost = self._leases[lane.name].renew(tags)
            self._engine.touch()
            self._mark_lost(lane, lost)
        self._in_trouble = False

    def _mark_lost(self, lane: Lane, tags: list[bytes]) -> None:
        """Those that have not started need not; those that run will meet the fence."""
        with self._engine.changed:
            held = [lane.in_hand.get(tag) for tag in tags]
            lost = [one for one in held if one and one.settled is None and not one.started]
            for execution in lost:
                execution.settled = "lost"
        if lost:
            log.warning("leases_lost", lane=lane.name, jobs=len(lost))


class Reaper(_Caretaker):
    """Returns lapsed leases and due delayed jobs to their lanes; says that we live."""

    def __init__(self, engine: Engine, client: Redis) -> None:
        super().__init__(engine, client, "reaper")
        self._scripts = Scripts(client)
        self._report_keys = (worker_key(engine.worker), WORKERS, FINGERPRINTS)
        self._reap_at = 0.0

    def stop(self) -> None:
        """End, and take leave, so that nobody counts on us until our report lapses."""
        super().stop()
        with contextlib.suppress(RedisError):
            self._scripts.run("report_worker", self._report_keys, (self._engine.worker,))

    def interval(self) -> float:
        """Half a second, jittered so that workers do not sweep in step; less for a due job."""
        longest = _REPORT_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load
        return max(0.01, min(longest, self._reap_at - time.monotonic()))

    def on_trouble(self) -> None:
        """After an outage, renewers go first: their jobs lapsed through no fault of theirs."""
        self._reap_at = time.monotonic() + _AFTER_TROUBLE_SECONDS

    def run_once(self) -> None:
        """Report, and sweep every lane when it is time."""
        now = time.monotonic()
        if now >= self._reap_at:
            self._reap_at = now + _REAP_SECONDS
            self._reap()
            self._engine.look_at_aliases.set()
        if self._engine.look_at_aliases.is_set():
            self.look_at_aliases()
        self._report()

    def look_at_aliases(self) -> None:
        """Where operators moved the catalog's aliases; may raise RedisError."""
        engine = self._engine
        engine.look_at_aliases.clear()
        if not engine.catalog.aliases:
            return
        moved = cast("dict[bytes, bytes]", self._client.hgetall(ALIASES))
        targets = {alias.decode(): target.decode() for alias, target in moved.items()}
        with engine.changed:
            engine.models.move_aliases({**engine.catalog.aliases, **targets})
            engine.changed.notify_all()

    def _reap(self) -> None:
        for name, leases in self._leases.items():
            ttl = self._engine.lanes[name].result_ttl
            reaped, _, next_due_ms = leases.reap(result_ttl=ttl)
            if reaped:
                log.warning("leases_reaped", lane=name, jobs=reaped)
            if 0 <= next_due_ms < _REAP_SECONDS * 1000:
                self._reap_at = min(self._reap_at, time.monotonic() + next_due_ms / 1000)

    def _report(self) -> None:
        engine = self._engine
        models = engine.models.residency.models
        now = time.monotonic()
        engine.device_time.mark(now)
        report = {
            "worker": engine.worker,
            "pid": os.getpid(),
            "device": engine.device,
            "started_at": engine.started_at,
            "on_the_bus": engine.on_the_bus,
            "loading": engine.models.loading,
            "finished": engine.finisher.finished,
            "fenced": engine.finisher.fenced,
            "cache": {"stored": engine.cache.stored, "dropped": engine.cache.dropped},
            "switches": engine.turns.switches,
            "device_time": engine.device_time.report(now),
            "lanes": {
                lane.name: {
                    "loaded": lane.handler is not None,
                    "error": None if lane.handler else models[lane.spec.name].error,
                    "model": lane.spec.name,
                    "fingerprint": models[lane.spec.name].fingerprint,
                    "in_hand": len(lane.in_hand),
                    "fetching": lane.fetching,
                    "max_batch": lane.limits.max_batch,
                    "batch_seconds": round(lane.batcher.time.typical, 6),
                    "batches": {str(size): n for size, n in sorted(lane.sizes.copy().items())},
                    **lane.stages.report(),
                }
                for lane in engine.lanes.values()
            },
            "models": {
                name: {
                    "memory_mb": round(one.size_mb, 1),
                    "load_seconds": round(one.load_seconds, 2),
                }
                for name, one in models.items()
                if one.handler is not None
            },
        }
        fingerprints = [
            word
            for lane in engine.lanes.values()
            if (known := models[lane.spec.name].fingerprint)
            for word in (lane.name, f"{lane.spec.name} {known}")
        ]
        name, text = engine.worker, json.dumps(report)
        args: list[str | bytes | int | float] = [name, text, WORKER_TTL_SECONDS, *fingerprints]
        self._scripts.run("report_worker", self._report_keys, args)
        engine.touch()


class Sweeper(_Caretaker):
    """Removes inputs that lie outside of Redis and that no job needs any more.

    Whatever settles a job deletes its blob key, under which the mark of such an input lies, so
    an input without the mark is nobody's. It must have an age, as it is written before the mark
    is. One worker of the fleet looks, the others leave it to that one.
    """

    def __init__(self, engine: Engine, client: Redis, blobs: Blobs) -> None:
        super().__init__(engine, client, "sweeper")
        self._blobs = blobs

    def interval(self) -> float:
        """As set, jittered so that not all workers ask at once whose turn it is."""
        seconds = self._engine.settings.blob_sweep_seconds
        return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load

    def on_trouble(self) -> None:
        """The next round is soon enough."""

    def run_once(self) -> None:
        """Look through the store, unless another worker does; may raise RedisError."""
        holds = max(1, int(self._engine.settings.blob_sweep_seconds * 0.7))
        if not self._client.set(BLOB_SWEEP, self._engine.worker, nx=True, ex=holds):
            return
        try:
            removed = asyncio.run(self._sweep())
        except InputStoreUnavailable:
            return  # said where it was raised
        if removed:
            log.info("inputs_swept", inputs=removed)

    async def _sweep(self) -> int:
        removed = 0
        async for page in self._blobs.older_than(self._engine.settings.blob_orphan_seconds):
            if not page or self._stopping.is_set():
                continue
            marks = cast("list[bytes | None]", self._client.mget(map(blob_key, page)))
            orphans = [one for one, mark in zip(page, marks, strict=True) if mark is None]
            await self._blobs.delete(orphans)
            removed += len(orphans)
        return removed
