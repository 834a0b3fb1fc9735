"""What the API tells of the queue's Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ResponseError

from api.background.server_watch import ServerWatch


class Told:
    """A client whose INFO answers this."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self._answer = answer

    async def info(self, section: str) -> dict[str, Any]:
        assert section == "memory"
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def metrics_of(answer: dict[str, Any] | Exception) -> dict[str, float]:
    watch = ServerWatch(Told(answer))  # type: ignore[arg-type]

    async def look() -> None:
        await watch.start()
        await watch.stop()

    asyncio.run(look())
    return {
        sample.name.removeprefix("lanefleet_api_redis_"): sample.value
        for family in watch.families()
        for sample in family.samples
    }


@pytest.mark.parametrize(("policy", "may_evict"), [("noeviction", 0.0), ("allkeys-lru", 1.0)])
def test_memory_and_policy_are_told(policy: str, may_evict: float) -> None:
    info = {"used_memory": 900, "maxmemory": 1000, "maxmemory_policy": policy}
    assert metrics_of(info) == {"used_bytes": 900, "max_bytes": 1000, "may_evict": may_evict}


def test_a_server_that_refuses_info_has_no_samples() -> None:
    assert metrics_of(ResponseError("NOPERM")) == {}
