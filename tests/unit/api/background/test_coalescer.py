"""Who asks together, and what each of them gets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from api.background.coalescer import Coalescer


class Server:
    """Answers a call when it is let go, and counts how many are in progress."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.calls: list[int] = []
        self.out = self.most_out = 0

    async def ask(self, keys: Sequence[str]) -> Sequence[str | Exception]:
        self.calls.append(len(keys))
        self.out += 1
        self.most_out = max(self.most_out, self.out)
        await self.gate.wait()
        self.out -= 1
        return [ValueError(key) if key == "bad" else key.upper() for key in keys]


def test_a_thousand_askers_in_many_turns_share_a_few_calls() -> None:
    async def main() -> None:
        server = Server()
        reads: Coalescer[str, str] = Coalescer(server.ask, max_items=100, max_in_progress=4)
        asking = []
        for number in range(1_000):
            asking.append(asyncio.create_task(reads.share(f"k{number}")))
            await asyncio.sleep(0)
        assert (server.out, server.most_out) == (4, 4)
        server.gate.set()
        assert await asyncio.gather(*asking) == [f"K{number}" for number in range(1_000)]
        assert server.most_out == 4
        assert sum(server.calls) == 1_000
        assert len(server.calls) <= 4 + 11

    asyncio.run(main())


def test_one_key_that_fails_or_one_asker_that_leaves_harms_no_other() -> None:
    async def main() -> None:
        server = Server()
        reads: Coalescer[str, str] = Coalescer(server.ask, max_items=100, max_in_progress=4)
        good, bad, same, leaver = (
            asyncio.create_task(reads.share(key)) for key in ("good", "bad", "good", "good")
        )
        await asyncio.sleep(0.01)
        leaver.cancel()
        server.gate.set()
        assert await good == await same == "GOOD"
        with pytest.raises(ValueError, match="bad"):
            await bad
        assert server.calls == [2]

    asyncio.run(main())


def test_each_who_submits_gets_an_answer_of_its_own_in_calls_of_bounded_size() -> None:
    async def main() -> None:
        server = Server()
        server.gate.set()
        asks: Coalescer[str, str] = Coalescer(
            server.ask, max_items=3, max_in_progress=2, max_bytes=10, size_bytes=len
        )
        words = ["a", "b", "c", "d", "x" * 30, "eeeee", "fffff", "g"]
        found = await asyncio.gather(*map(asks.submit, words), return_exceptions=True)
        assert found == [word.upper() for word in words]
        assert server.calls == [3, 1, 1, 2, 1], "by count, and by size but at least one"
        assert server.most_out <= 2

    asyncio.run(main())


def test_what_sending_raises_is_told_to_all_of_that_call_and_then_to_its_owner() -> None:
    async def main() -> None:
        heard: list[Exception] = []

        async def fail(_items: Sequence[str]) -> Sequence[str | Exception]:
            raise OSError("away")

        asks: Coalescer[str, str] = Coalescer(
            fail, max_items=10, max_in_progress=1, on_failure=heard.append
        )
        found = await asyncio.gather(asks.submit("a"), asks.submit("b"), return_exceptions=True)
        assert [str(one) for one in found] == ["away", "away"]
        assert [str(one) for one in heard] == ["away"]

    asyncio.run(main())


def test_who_waits_and_who_was_sent_can_be_let_go_with_an_error() -> None:
    async def main() -> None:
        server = Server()
        asks: Coalescer[str, str] = Coalescer(server.ask, max_items=1, max_in_progress=1)
        sent = asks.submit("sent")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting = asks.submit("waiting")
        asks.fail_waiting(lambda: ValueError("closed"))
        with pytest.raises(ValueError, match="closed"):
            await waiting
        assert not sent.done()
        asks.fail_in_progress(lambda: TimeoutError("silent"))
        with pytest.raises(TimeoutError, match="silent"):
            await sent
        server.gate.set()
        assert await asks.submit("next") == "NEXT"
        assert server.calls == [1, 1]

    asyncio.run(main())
