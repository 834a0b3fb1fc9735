"""Who else uses this database is told from what workers say and from lists that nobody reads."""

from __future__ import annotations

import asyncio

from api.jobs.neighbors import disputed_lanes, foreign_lanes, unread_lists
from common.redis.connect import connect, connect_async
from common.redis.embedded_server import RedisServer
from common.settings import Settings
from common.worker_report import LaneReport, WorkerReport


def report(worker: str, **weights: str) -> WorkerReport:
    """A worker that serves these lanes with these weights."""
    lanes = {
        name: LaneReport(loaded=True, error=None, model=name, fingerprint=digest)
        for name, digest in weights.items()
    }
    return WorkerReport(worker, lanes=lanes)


def test_lanes_that_the_catalog_has_not_are_foreign() -> None:
    reports = [report("a", echo="1", theirs="2"), report("b", more="1")]
    assert foreign_lanes(reports, {"echo", "idle"}) == ["more", "theirs"]


def test_lanes_with_different_weights_are_disputed() -> None:
    reports = [report("a", echo="1", bert="1"), report("b", echo="2", bert="1"), report("c", x="")]
    assert disputed_lanes(reports) == ["echo"]


def test_lists_of_other_transport_options_are_found(embedded_redis: RedisServer) -> None:
    with connect(embedded_redis.url, Settings()) as client:
        client.flushall()
        for name in ("echo", "echo\x06\x163", "echo\x06\x164", "echo:3", "other:3"):
            client.lpush(name, "message")
        client.set("echo:5", "something else of somebody else")

    async def look() -> list[str]:
        async with connect_async(embedded_redis.url, Settings()) as client:
            return await unread_lists(client, ["echo"])

    assert asyncio.run(look()) == ["echo\x06\x164", "echo:3"]
