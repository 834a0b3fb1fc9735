"""Lanes that hold jobs and that nobody serves: their model was taken out of the catalog.

Workers note their lanes; what is neither in our catalog nor served by a live worker, and holds
jobs, is said in the log, in `/ready` and among the lanes, until it is served again or dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import cast

import redis.asyncio
import structlog
from redis.exceptions import RedisError, ResponseError

from api.jobs.neighbors import disputed_lanes, foreign_lanes, unread_lists
from api.jobs.store import JobStore
from api.overload.lane_state import LaneState
from common.catalog import NAME_PATTERN
from common.jobs.system_lanes import is_system
from common.redis.ending import end_tasks
from common.redis.keys import LANES
from common.redis.trouble import TROUBLE
from common.worker_report import WorkerReport

log = structlog.get_logger(__name__)

_INTERVAL_SECONDS = 5.0
_ONE_FLEET = "two fleets need a database each; otherwise give API and workers one catalog"
_TRANSPORT = "a Celery client uses other priority_steps or sep; see docs/celery.md"


class AbandonedLanes:
    """Looks for them for as long as the process lives."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        store: JobStore,
        catalog: Collection[str],
        reports: Callable[[], list[WorkerReport]],
    ) -> None:
        """reports are what live workers last said."""
        self._client = client
        self._store = store
        self._catalog = catalog
        self._reports = reports
        self._task: asyncio.Task[None] | None = None
        self._said: set[tuple[str, str]] = set()
        """Each is said once, until it is over."""
        self.lanes: dict[str, LaneState] = {}
        """What each of them holds, as it was a few seconds ago."""

    async def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="abandoned-lanes")

    async def stop(self) -> None:
        """End."""
        await end_tasks(self._task)

    def is_served(self, lane: str) -> bool:
        """Whether it is in the catalog, a live worker has it, or it is one of the fleet's own."""
        return (
            lane in self._catalog
            or is_system(lane)
            or any(lane in report.lanes for report in self._reports())
        )

    async def is_known(self, lane: str) -> bool:
        """Whether a worker ever noted it, or it holds jobs. May raise RedisError."""
        if not NAME_PATTERN.match(lane):
            return False
        if lane.encode() in cast("set[bytes]", await self._client.smembers(LANES)):
            return True
        try:
            return bool((await self._store.lanes([lane]))[lane].backlog)
        except ResponseError:  # a key of this name is no list, so it is somebody else's
            return False

    async def look(self) -> None:
        """Look once; may raise RedisError."""
        known = cast("set[bytes]", await self._client.smembers(LANES))
        names = sorted(name for one in known if not self.is_served(name := one.decode()))
        found = await self._store.lanes(names) if names else {}
        before, self.lanes = self.lanes, {n: one for n, one in found.items() if one.backlog}
        for name in self.lanes.keys() - before.keys():
            log.warning("lane_abandoned", lane=name, jobs=self.lanes[name].backlog)
        reports = self._reports()
        unread = await unread_lists(self._client, self._catalog)
        self._say("lane_of_another_catalog", foreign_lanes(reports, self._catalog), _ONE_FLEET)
        self._say("lane_with_different_weights", disputed_lanes(reports), _ONE_FLEET)
        self._say("list_unread", unread, _TRANSPORT)

    def _say(self, event: str, names: list[str], hint: str) -> None:
        for name in names:
            if (event, name) not in self._said:
                log.warning(event, name=name, hint=hint)
        kept = {pair for pair in self._said if pair[0] != event}
        self._said = kept | {(event, name) for name in names}

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except RedisError as exc:
                TROUBLE.note("looking for lanes that nobody serves", exc)
            except Exception:
                log.exception("abandoned_lanes_failed")
            await asyncio.sleep(_INTERVAL_SECONDS)
