from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from api.jobs.store import JobStore
from api.jobs.waiter import ResultWaiter
from common.jobs.record import JobRecord, JobState
from common.redis.connect import connect_async
from common.redis.embedded_server import RedisServer
from common.redis.keys import META_PREFIX
from common.settings import Settings
from tests.support.proxy import FaultyProxy

DONE = JobState.SUCCEEDED


class Connection:
    """Confirms subscriptions as Redis does, until it is lost."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.is_connected = False
        self.replies: asyncio.Queue[list[Any] | None] = asyncio.Queue()

    async def connect(self) -> None:
        self.is_connected = True
        self.server.connections.append(self)

    async def disconnect(self, nowait: bool = False) -> None:
        self.is_connected = False
        self.replies.put_nowait(None)

    async def send_command(self, *command: str) -> None:
        self.server.commands.append(command)
        if command[0] == self.server.held:
            await self.server.gate.wait()
            if not self.is_connected:
                raise AttributeError("'NoneType' object has no attribute 'writelines'")
        if command[0] == "PING" and self.server.alive:
            self.replies.put_nowait([b"pong", b""])
        if command[0] == "SUBSCRIBE":
            for channel in command[1:]:
                self.replies.put_nowait([b"subscribe", channel.encode(), 1])

    async def read_response(self, timeout: float) -> list[Any] | None:
        """None after the timeout, as redis-py does it."""
        try:
            message = await asyncio.wait_for(self.replies.get(), timeout)
        except TimeoutError:
            return None
        if message is None:
            raise RedisConnectionError("lost")
        return message

    def lose(self) -> None:
        self.is_connected = False
        self.replies.put_nowait(None)


class Server:
    """What a waiter has of Redis: the pool, the connections and the records."""

    def __init__(self) -> None:
        self.connection_pool = self
        self.connections: list[Connection] = []
        self.commands: list[tuple[str, ...]] = []
        self.states: dict[str, JobState] = {}
        self.looks = 0
        self.up = self.alive = True
        self.held = ""
        self.gate = asyncio.Event()

    def make_connection(self) -> Connection:
        return Connection(self)

    async def get(self, job_id: str) -> JobRecord | None:
        return (await self.get_many([job_id]))[0]

    async def get_many(self, ids: Sequence[str]) -> list[JobRecord | None]:
        self.looks += 1
        if not self.up:
            raise RedisConnectionError("refused")
        await asyncio.sleep(0)
        return [JobRecord(one, self.states.get(one, JobState.RUNNING), "m") for one in ids]

    def channels(self, verb: str) -> list[str]:
        named = [channel for first, *rest in self.commands if first == verb for channel in rest]
        return [channel.removeprefix(META_PREFIX) for channel in named]


async def started(server: Server, outage: float = 2.0) -> ResultWaiter:
    waiter = ResultWaiter(server, server, outage_seconds=outage)  # type: ignore[arg-type]
    waiter.start()
    await until(lambda: server.connections)
    return waiter


async def until(condition: Any, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def lose(waiter: ResultWaiter, server: Server) -> None:
    """Cut the connection, until whoever is woken by that has asked what it asks."""
    server.connections[-1].lose()
    await until(lambda: waiter._subscriptions.connection is None)
    for _ in range(20):  # turns of the loop; nothing in them waits for a clock
        await asyncio.sleep(0)


def ping_count(server: RedisServer) -> int:
    """How many PINGs it has answered."""
    with Redis.from_url(server.url) as client:
        return int(client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"])


async def by_wait(waiter: ResultWaiter, job_id: str, seconds: float) -> JobState | None:
    record = await waiter.wait(job_id, seconds)
    return record.state if record else None


async def by_watch(waiter: ResultWaiter, job_id: str, seconds: float) -> JobState | None:
    async for records in waiter.watch(["other", job_id], seconds):
        for record in records:
            if record.id == job_id:
                return record.state
    return None


BOTH = pytest.mark.parametrize("ask", [by_wait, by_watch])


@BOTH
def test_what_ends_between_a_lost_connection_and_the_next_is_seen(ask: Any) -> None:
    async def main() -> None:
        server = Server()
        waiter = await started(server)
        asking = asyncio.create_task(ask(waiter, "j", 20))
        await until(lambda: server.looks)
        await lose(waiter, server)
        server.states["j"] = DONE
        assert await asyncio.wait_for(asking, 15) is DONE
        assert server.channels("SUBSCRIBE").count("j") == 2
        await waiter.stop()

    asyncio.run(main())


@BOTH
def test_who_cannot_be_sure_to_hear_looks_again(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.jobs.subscriptions._CONFIRM_SECONDS", 0.05)

    async def main() -> None:
        server = Server()
        waiter = ResultWaiter(server, server)  # type: ignore[arg-type]  # never started
        asking = asyncio.create_task(ask(waiter, "j", 20))
        await until(lambda: server.looks >= 2)
        server.states["j"] = DONE
        assert await asyncio.wait_for(asking, 10) is DONE

    asyncio.run(main())


@BOTH
@pytest.mark.parametrize("end", ["drain", "stop"])
def test_nobody_who_waits_to_be_sure_holds_up_a_drain(ask: Any, end: str) -> None:
    async def main() -> None:
        server = Server()
        waiter = await started(server)
        asking = asyncio.create_task(ask(waiter, "j", 20))
        await until(lambda: server.looks)
        await lose(waiter, server)
        if end == "drain":
            waiter.drain()
        else:
            await waiter.stop()
        await asyncio.wait_for(asking, 10)
        await waiter.stop()

    asyncio.run(main())


def test_a_connection_lost_while_a_wait_begins_is_no_error_of_the_wait() -> None:
    async def main() -> None:
        server = Server()
        waiter = await started(server)
        server.held = "SUBSCRIBE"
        asking = asyncio.create_task(waiter.wait("j", 20))
        await until(lambda: server.channels("SUBSCRIBE"))
        await lose(waiter, server)
        server.gate.set()
        server.states["j"] = DONE
        record = await asyncio.wait_for(asking, 10)
        assert record is not None
        assert record.state is DONE
        await waiter.stop()

    asyncio.run(main())


def test_a_connection_lost_while_one_leaves_does_not_end_leaving() -> None:
    async def main() -> None:
        server = Server()
        waiter = await started(server)
        server.held = "UNSUBSCRIBE"
        await waiter.wait("a", 0)
        await until(lambda: server.channels("UNSUBSCRIBE"))
        await waiter.wait("b", 0)
        await lose(waiter, server)
        server.gate.set()
        await until(lambda: len(server.connections) == 2)
        await waiter.wait("c", 0)
        await until(lambda: "c" in server.channels("UNSUBSCRIBE"))
        await until(lambda: not waiter._subscriptions.channels)
        await waiter.stop()

    asyncio.run(main())


def test_a_silent_connection_is_asked_once_and_then_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.jobs.subscriptions.PING_SECONDS", 0.05)
    monkeypatch.setattr("api.jobs.subscriptions._RECONNECT_SECONDS", 0.05)

    async def main() -> None:
        server = Server()
        waiter = await started(server)
        await until(lambda: server.commands.count(("PING",)) >= 3)
        assert len(server.connections) == 1, "it answers"
        server.alive = False
        asked = server.commands.count(("PING",))
        await until(lambda: len(server.connections) == 2)
        assert server.commands.count(("PING",)) - asked <= 1
        assert not server.connections[0].is_connected
        await waiter.stop()

    asyncio.run(main())


def test_a_peer_that_vanished_is_replaced_over_sockets(
    embedded_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.jobs.subscriptions.PING_SECONDS", 0.2)
    monkeypatch.setattr("api.jobs.subscriptions._RECONNECT_SECONDS", 0.1)

    async def main() -> None:
        proxy = FaultyProxy(embedded_redis.url)
        client = connect_async(proxy.url, Settings(socket_timeout_seconds=1))
        waiter = ResultWaiter(client, JobStore(client, 60))
        waiter.start()
        await until(lambda: waiter._subscriptions.connection)
        first = waiter._subscriptions.connection
        pings = ping_count(embedded_redis)
        await until(lambda: ping_count(embedded_redis) >= pings + 3)
        assert waiter._subscriptions.connection is first, "a quiet one that answers is kept"
        with proxy.blackhole():
            await until(lambda: waiter._subscriptions.connection is not first)
        await until(lambda: waiter._subscriptions.connection is not None, 5)
        await waiter.stop()
        await client.aclose()
        proxy.close()

    asyncio.run(main())


@BOTH
def test_a_restart_of_redis_is_no_news_to_who_waits(ask: Any) -> None:
    async def main() -> None:
        server = Server()
        waiter = await started(server)
        asking = asyncio.create_task(ask(waiter, "j", 20))
        await until(lambda: server.looks)
        server.up = False
        server.connections[0].lose()
        looks = server.looks
        await until(lambda: server.looks > looks + 1)
        server.up = True
        await until(lambda: server.channels("SUBSCRIBE").count("j") == 2)
        server.states["j"] = DONE
        server.connections[-1].lose()
        assert await asyncio.wait_for(asking, 10) is DONE
        await waiter.stop()

    asyncio.run(main())


@BOTH
@pytest.mark.parametrize(("seconds", "outage", "at_least"), [(20, 0.5, 0.2), (0.1, 30, 0)])
def test_who_waits_hears_of_a_redis_that_stays_away(
    ask: Any, seconds: float, outage: float, at_least: float
) -> None:
    async def main() -> None:
        server = Server()
        waiter = await started(server, outage)
        server.up = False
        began = time.monotonic()
        with pytest.raises(RedisConnectionError):
            await ask(waiter, "j", seconds)
        assert at_least <= time.monotonic() - began < 15
        await waiter.stop()

    asyncio.run(main())
