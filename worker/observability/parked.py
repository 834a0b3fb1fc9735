"""The jobs of our lanes that wait for their time, read only when somebody asks.

They lie in Redis, held by no worker: every worker that serves a lane names the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import orjson
from redis import Redis

from common.redis.keys import BANDS, LaneKeys

MAX_PARKED_LOOKED_AT = 1_000
"""Of one lane, those that are due first; a look must not hold up the worker."""


class ParkedJob(NamedTuple):
    """A job with an ETA ahead, or between two attempts."""

    job_id: str
    lane: str
    priority: int
    due_ms: int


class ParkedJobs:
    """Looks into what is delayed."""

    def __init__(self, client: Redis, lanes: Iterable[str]) -> None:
        self._client = client
        self._lanes = list(lanes)

    def first(self, limit: int) -> list[ParkedJob]:
        """Those of each lane that are due first, so many at most; may raise RedisError."""
        return [job for lane in self._lanes for job in self._read(lane, limit)]

    def find(self, job_ids: Iterable[str]) -> list[ParkedJob]:
        """Those of these that are parked, as far as a look reaches; may raise RedisError."""
        wanted = set(job_ids)
        if not wanted:
            return []
        return [one for one in self.first(MAX_PARKED_LOOKED_AT) if one.job_id in wanted]

    def _read(self, lane: str, limit: int) -> Iterator[ParkedJob]:
        key, last = LaneKeys.of(lane).delayed, min(limit, MAX_PARKED_LOOKED_AT) - 1
        found = cast(
            "list[tuple[bytes, float]]", self._client.zrange(key, 0, last, withscores=True)
        )
        for member, due_ms in found:
            band, _, message = member.partition(b":")
            job_id = orjson.loads(message)["headers"]["id"]
            yield ParkedJob(job_id, lane, BANDS[int(band) - 1], int(due_ms))
