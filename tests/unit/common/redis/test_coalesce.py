from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from common.redis.coalesce import SharedTrips


class Server:
    """Answers a trip when it is let go, and counts how many are out."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.trips: list[int] = []
        self.out = self.most_out = 0

    async def ask(self, keys: Sequence[str]) -> Sequence[str | Exception]:
        self.trips.append(len(keys))
        self.out += 1
        self.most_out = max(self.most_out, self.out)
        await self.gate.wait()
        self.out -= 1
        return [ValueError(key) if key == "bad" else key.upper() for key in keys]


def test_a_thousand_askers_in_many_turns_share_a_few_trips() -> None:
    async def main() -> None:
        server = Server()
        reads: SharedTrips[str] = SharedTrips(server.ask, 100)
        asking = []
        for number in range(1_000):
            asking.append(asyncio.create_task(reads.get(f"k{number}")))
            await asyncio.sleep(0)
        assert (server.out, server.most_out) == (4, 4)
        server.gate.set()
        assert await asyncio.gather(*asking) == [f"K{number}" for number in range(1_000)]
        assert server.most_out == 4
        assert sum(server.trips) == 1_000
        assert len(server.trips) <= 4 + 11

    asyncio.run(main())


def test_one_key_that_fails_or_one_asker_that_leaves_harms_no_other() -> None:
    async def main() -> None:
        server = Server()
        reads: SharedTrips[str] = SharedTrips(server.ask, 100)
        good, bad, same, leaver = (
            asyncio.create_task(reads.get(key)) for key in ("good", "bad", "good", "good")
        )
        await asyncio.sleep(0.01)
        leaver.cancel()
        server.gate.set()
        assert await good == await same == "GOOD"
        with pytest.raises(ValueError, match="bad"):
            await bad
        assert server.trips == [2]

    asyncio.run(main())
