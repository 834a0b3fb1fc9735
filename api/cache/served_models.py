"""Tracks the model and weights that workers report for each lane, for the cache's digests.

Read once a second in the background, so that no request reads it. The last known values stay
in use while Redis or the workers are unavailable: cached results can still be found, and a
worker whose weights differ by then caches nothing under a stale digest (see the ticket in
common/jobs/job.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from api.cache.directives import CacheDirectives
from common.catalog import Catalog, ModelSpec, Target
from common.generation.inputs import options_of
from common.generation.options import cached_by
from common.jobs.cache_entry import digest_of
from common.jobs.job import CacheTicket
from common.jobs.shared_weights import SharedWeights
from common.redis.ending import end_tasks
from common.redis.keys import CACHE_EPOCHS, WEIGHTS_DIGESTS
from common.redis.trouble import TROUBLE

_INTERVAL_SECONDS = 1.0
_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Served:
    spec: ModelSpec
    weights: str
    epoch: str


@dataclass(frozen=True, slots=True)
class _Shared:
    """An alias whose jobs several models share."""

    target: Target
    models: Mapping[str, _Served | None]
    """Those that are loaded; None where results are not cached, or the weights not known yet."""


class ServedModels:
    """The model that serves each lane, and its weights digest."""

    def __init__(self, client: redis.asyncio.Redis, catalog: Catalog) -> None:
        self._client = client
        self._catalog = catalog
        self._served: Mapping[str, _Served | _Shared] = {}
        self._epochs: dict[str, str] = {}
        self._lanes: Mapping[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read once, for no longer than a second, and continue in the background."""
        if not any(spec.keeps_results_seconds for spec in self._catalog.models.values()):
            return
        await self._look()
        self._task = asyncio.create_task(self._run(), name="served_models")

    async def stop(self) -> None:
        """End."""
        await end_tasks(self._task)

    def ticket(
        self,
        lane: str,
        wish: CacheDirectives,
        *,
        job_id: str,
        tenant: str,
        params: Mapping[str, Any],
        value: Any,
        blob: bytes | None,
    ) -> CacheTicket | None:
        """The cache ticket of this job; None where its result may not be cached, or the digest is
        not known yet. Generation that draws without a seed has another result each time.

        Where several models share the lane, it is the ticket that says which of them is meant: the
        worker goes by its weights.
        """
        served = self._served.get(lane)
        if isinstance(served, _Shared):
            served = served.models[served.target.pick(lane, job_id, tenant, served.models)]
        if served is None or not wish.keep:
            return None
        spec = served.spec
        options = options_of(spec, params)
        if options is not None:
            decisive = cached_by(options)
            if decisive is None:
                return None
            params = decisive
        digest = digest_of(
            spec,
            scope="" if spec.cache_shared else tenant,
            weights=served.weights,
            epoch=served.epoch,
            params=params,
            value=value,
            blob=blob,
        )
        return CacheTicket(digest, spec.name, served.weights, wish.look, wish.max_age_seconds)

    async def begin_epoch(self, model: str) -> None:
        """Invalidate the model's cached results: here at once, elsewhere within a second."""
        epoch = await self._client.hincrby(CACHE_EPOCHS, model, 1)
        self._epochs[model] = str(epoch)
        self._settle()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_SECONDS)
            await self._look()

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                pipe = self._client.pipeline(transaction=False)
                pipe.hgetall(WEIGHTS_DIGESTS)
                pipe.hgetall(CACHE_EPOCHS)
                lanes, epochs = await pipe.execute()
        except (RedisError, TimeoutError, OSError) as exc:
            TROUBLE.note("reading which models are served", exc)
            return
        if lanes:  # a Redis that was emptied says nothing of the models
            self._lanes = {lane.decode(): said.decode() for lane, said in lanes.items()}
        for model, epoch in epochs.items():
            self._epochs[model.decode()] = epoch.decode()
        self._settle()

    def _settle(self) -> None:
        served: dict[str, _Served | _Shared] = {}
        for lane, said in self._lanes.items():
            shared = SharedWeights.load(said)
            model, _, weights = said.partition(" ")
            if shared is not None:
                models = {name: self._known(name, has) for name, has in shared.weights.items()}
                served[lane] = _Shared(shared.target, models)
            elif one := self._known(model, weights):
                served[lane] = one
        self._served = served

    def _known(self, model: str, weights: str) -> _Served | None:
        spec = self._catalog.models.get(model)
        if spec is None or not weights or not spec.keeps_results_seconds:
            return None
        return _Served(spec, weights, self._epochs.get(model, "0"))
