"""Many requests at once take few of the pool's connections."""

from __future__ import annotations

import asyncio
from typing import Any

from api.jobs.store import JobStore
from api.tenants.api_keys import PREFIX
from api.tenants.auth import LOCAL, Authenticator, KeyPolicy
from common.settings import Settings


class Client:
    """Answers that there is nothing, and counts how many ask at a time."""

    def __init__(self) -> None:
        self.out = self.most_out = self.asked = 0

    async def mget(self, keys: list[str]) -> list[None]:
        await self._ask()
        return [None] * len(keys)

    async def hget(self, key: str, field: str) -> None:
        await self._ask()

    async def hlen(self, key: str) -> int:
        await self._ask()
        return 0

    def register_script(self, script: str) -> None:
        """Scripts are not run here."""

    async def _ask(self) -> None:
        self.asked += 1
        self.out += 1
        self.most_out = max(self.most_out, self.out)
        await asyncio.sleep(0.001)
        self.out -= 1


def test_two_hundred_batch_reads_take_four_connections() -> None:
    async def main() -> None:
        client: Any = Client()
        store = JobStore(client, 60)
        many = [store.get_many([f"{n}-a", f"{n}-b"]) for n in range(200)]
        live = [store.live_records([f"{n}-a"]) for n in range(200)]
        found = await asyncio.gather(*many, *live)
        assert found == [[None, None]] * 200 + [[None]] * 200
        assert client.asked == 400
        assert client.most_out == 4
        assert await store.get_many([]) == []

    asyncio.run(main())


def test_two_hundred_keys_are_looked_up_over_four_connections() -> None:
    async def main() -> None:
        client: Any = Client()
        keys = Authenticator(client, KeyPolicy.of(Settings(api_keys_required=True)))
        texts = [f"{PREFIX}{n:012x}_{'a' * 64}".encode() for n in range(200)]
        known = await asyncio.gather(*(keys._ask(text, text) for text in texts))
        assert {one.principal for one in known} == {None}
        assert client.asked == 200
        assert client.most_out == 4

    asyncio.run(main())


def test_a_thousand_requests_without_a_key_ask_once_whether_one_is_needed() -> None:
    async def main() -> None:
        client: Any = Client()
        keys = Authenticator(client, KeyPolicy.of(Settings()))
        assert await asyncio.gather(*(keys.identify([]) for _ in range(1_000))) == [LOCAL] * 1_000
        assert (client.asked, client.most_out) == (1, 1)
        keys._open_until = 1.0  # what was heard is old now
        await asyncio.gather(*(keys.identify([]) for _ in range(1_000)))
        assert (client.asked, client.most_out) == (2, 1)

    asyncio.run(main())
