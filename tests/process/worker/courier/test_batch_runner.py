"""A batch that is stopped at any instant, over a real Redis; its lane is served in this process."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from common.batches.files import Files, FileStoreFull
from common.batches.records import (
    BatchRecord,
    BatchStatus,
    FileRecord,
    line_job_id,
    new_batch_id,
    new_file_id,
    words_of,
)
from common.catalog import load_catalog
from common.errors import InputStoreUnavailable
from common.inputs.blobs import FolderBlobs
from common.jobs.system_lanes import BATCHES
from common.redis.connect import connect_async
from common.redis.embedded_server import RedisServer
from common.redis.ending import end_tasks
from common.redis.keys import BATCH_PREFIX, EVENTS, LaneKeys, band_key, job_key, meta_key
from common.redis.keys import BATCHES as UNFINISHED
from common.settings import Settings
from worker.courier.batches import output, work
from worker.courier.batches.runner import BatchRunner
from worker.courier.jobs import CourierJob, Done, Later
from worker.courier.leases import CourierLeases, result_of
from worker.jobs.lease_calls import FinishedJob

LINES, WINDOW = 200, 40


@dataclass
class House:
    """A runner with its store and its Redis."""

    client: Any
    files: Files
    blobs: FolderBlobs
    runner: BatchRunner
    settings: Settings

    async def batch(self, count: int = LINES, seconds: float = 3_600, **fields: Any) -> BatchRecord:
        """A batch of so many lines, with its input stored."""
        lines = b"".join(line(n) for n in range(count))
        file_id, now_ms = new_file_id(), int(time.time() * 1000)
        for first in range(0, len(lines), 4_000):
            await self.files.append(file_id, lines[first : first + 4_000])
        file = FileRecord(file_id, "acme", "batch", "in", len(lines), now_ms, now_ms * 2)
        await self.files.add(file)
        record = BatchRecord(
            *(new_batch_id(), "acme", "/v1/jobs", file_id, "1h", "", BatchStatus.VALIDATING),
            *(now_ms, now_ms + int(seconds * 1000), new_file_id(), new_file_id(), WINDOW, 60),
            job="j",
        )
        record = replace(record, **fields)
        words = words_of(record)
        await self.client.hset(BATCH_PREFIX + record.id, mapping=pairs(words))
        await self.client.zadd(UNFINISHED, {record.id: 1})
        return record

    async def status(self, record: BatchRecord) -> str:
        return str((await self.client.hget(BATCH_PREFIX + record.id, "status")).decode())

    async def numbers(self, file_id: str) -> list[int]:
        """The lines of a file of results, by their custom ids."""
        whole = b"".join([part async for part in self.files.read(file_id)])
        return [int(json.loads(one)["custom_id"]) for one in whole.splitlines()]

    @asynccontextmanager
    async def served(self, pause: float = 0.0) -> AsyncIterator[None]:
        """The lane's jobs succeed, a few at a time."""
        task = asyncio.create_task(self._serve(pause))
        try:
            yield
        finally:
            await end_tasks(task)

    async def _serve(self, pause: float) -> None:
        leases = CourierLeases(self.client, "echo", "tester", self.settings)
        while True:
            held = await leases.reserve(7)
            done = [
                FinishedJob(one.tag, id_of(one.message), result_of({"ok": 1}), one.tenant)
                for one in held
            ]
            if done:
                await leases.finish(done)
            await asyncio.sleep(pause if done else 0.005)


def line(number: int) -> bytes:
    body = {"model": "echo", "input": number}
    return (
        json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/jobs", "body": body})
        + "\n"
    ).encode()


def pairs(words: list[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))


def id_of(message: bytes) -> str:
    return str(json.loads(message)["headers"]["id"])


def leased(record: BatchRecord) -> CourierJob:
    return CourierJob(BATCHES, "j", b"t", "~acme", record.id, 0)


@pytest.fixture
def use(
    embedded_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[House], Coroutine[Any, Any, None]]], None]:
    """Runs a test's coroutine with a house."""
    monkeypatch.setattr(output, "_PART_BYTES", 3_000)
    catalog = tmp_path / "models.yaml"
    catalog.write_text("models: {echo: {handler: echo}}\n")
    settings = Settings(redis_url=embedded_redis.url, catalog=catalog)  # type: ignore[arg-type]

    def call(test: Callable[[House], Coroutine[Any, Any, None]]) -> None:
        async def within() -> None:
            async with connect_async(embedded_redis.url, settings) as client:
                blobs = FolderBlobs(tmp_path / "files")
                files = Files(client, blobs)
                await client.flushall()
                runner = BatchRunner(client, files, load_catalog(catalog), settings)
                await test(House(client, files, blobs, runner, settings))

        asyncio.run(within())

    return call


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20))]
)
def test_whenever_it_is_stopped_each_line_is_there_once(use: Any, seed: int) -> None:
    random_number = random.Random(seed)

    async def test(house: House) -> None:
        record, stops = await house.batch(), 0
        async with house.served(pause=0.01):
            while await house.status(record) != "completed":
                task = asyncio.create_task(house.runner.run(leased(record)))
                await asyncio.wait({task}, timeout=random_number.uniform(0, 0.06))
                stops += task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        assert stops > 2
        assert await house.numbers(record.output_file) == list(range(LINES))
        assert await house.client.xlen(EVENTS) == 1
        print(f"stopped {stops} times")

    use(test)


def test_no_more_than_a_window_of_it_is_in_redis(use: Any) -> None:
    async def test(house: House) -> None:
        record = await house.batch()
        task = asyncio.create_task(house.runner.run(leased(record)))
        bands = LaneKeys.of("echo").bands
        lowest = band_key("echo", 9)
        tenant = f"{LaneKeys.of('echo').over}:4:acme"

        async def waiting() -> int:
            return int(await house.client.llen(lowest)) + int(await house.client.llen(tenant))

        while await waiting() < WINDOW:
            await asyncio.sleep(0.01)
        for _ in range(20):
            assert await waiting() == WINDOW
            await asyncio.sleep(0.01)
        assert not any([await house.client.llen(band) for band in bands[:3]])
        async with house.served():
            assert await task == Done()
        assert await house.status(record) == "completed"

    use(test)


def test_a_canceled_batch_has_what_was_done_even_if_its_courier_died_before(use: Any) -> None:
    async def test(house: House) -> None:
        record = await house.batch()
        task = asyncio.create_task(house.runner.run(leased(record)))
        last = line_job_id(record.id, WINDOW - 1)
        while not await house.client.exists(job_key(last)):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        leases = CourierLeases(house.client, "echo", "tester", house.settings)
        held = await leases.reserve(9)
        await leases.finish(
            [FinishedJob(one.tag, id_of(one.message), result_of(1), one.tenant) for one in held]
        )
        await house.client.hset(BATCH_PREFIX + record.id, "status", "cancelling")
        assert await house.runner.run(leased(record)) == Done()
        assert await house.status(record) == "cancelled"
        done = {id_of(one.message) for one in held}
        expected = [n for n in range(LINES) if line_job_id(record.id, n) in done]
        assert len(expected) == 9
        assert await house.numbers(record.output_file) == expected
        assert not await house.files.parts(record.error_file)
        assert not await house.client.exists(job_key(line_job_id(record.id, WINDOW + 1)))
        assert await house.client.xlen(EVENTS) == 1

    use(test)


def test_results_that_redis_loses_are_made_again(use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_STALLED_SECONDS", 0.2)

    async def test(house: House) -> None:
        record = await house.batch(60)
        task = asyncio.create_task(house.runner.run(leased(record)))
        while not await house.client.exists(job_key(line_job_id(record.id, 20))):
            await asyncio.sleep(0.01)
        for key in (*LaneKeys.of("echo").bands, f"{LaneKeys.of('echo').over}:4:acme"):
            await house.client.delete(key)
        for number in range(60):
            await house.client.delete(job_key(line_job_id(record.id, number)))
        await house.client.delete(LaneKeys.of("echo").over)
        async with house.served():
            assert await task == Done()
        assert await house.numbers(record.output_file) == list(range(60))

    use(test)


def test_a_full_disk_is_said_and_waited_out(use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_STORE_PAUSE_SECONDS", 0.02)

    async def test(house: House) -> None:
        record = await house.batch(60)
        put, failures, said = house.blobs.put, [3], set()

        async def failing(name: str, content: bytes) -> None:
            said.add(await house.client.hget(BATCH_PREFIX + record.id, "trouble"))
            if failures[0]:
                failures[0] -= 1
                raise InputStoreUnavailable("no space left")
            await put(name, content)

        monkeypatch.setattr(house.blobs, "put", failing)
        async with house.served():
            assert await house.runner.run(leased(record)) == Done()
        assert any(b"make room" in one for one in said if one)
        assert await house.client.hget(BATCH_PREFIX + record.id, "trouble") == b""
        assert await house.numbers(record.output_file) == list(range(60))

    use(test)


def test_an_input_that_cannot_be_read_now_is_read_later(use: Any) -> None:
    async def test(house: House) -> None:
        record = await house.batch(5)
        names = [name for name, _ in await house.files.parts(record.input_file)]
        await house.blobs.delete(names)
        outcome = await house.runner.run(leased(record))
        assert isinstance(outcome, Later)
        assert await house.client.hget(BATCH_PREFIX + record.id, "trouble")

    use(test)


def test_a_batch_without_a_job_gets_one_and_only_one(use: Any) -> None:
    async def test(house: House) -> None:
        record = await house.batch(5)
        lane = LaneKeys.of(BATCHES).bands[0]
        for _ in range(3):
            await house.runner.revive()
            assert await house.client.llen(lane) == 1
        await house.client.delete(job_key("j"), lane)
        await house.client.set(meta_key("j"), result_of(None))
        await house.runner.revive()  # its job was settled, and it is not done
        assert await house.client.llen(lane) == 1
        assert await house.client.hget(BATCH_PREFIX + record.id, "job") != b"j"

    use(test)


def test_an_expired_batch_has_an_error_for_each_line_that_was_not_done(use: Any) -> None:
    async def test(house: House) -> None:
        record = await house.batch(seconds=0.5)
        async with house.served(pause=0.05):
            assert await house.runner.run(leased(record)) == Done()
        assert await house.status(record) == "expired"
        done = await house.numbers(record.output_file)
        assert done == sorted(set(done))
        rest = await house.numbers(record.error_file)
        assert rest == [n for n in range(LINES) if n not in done]
        assert rest

    use(test)


def test_a_full_redis_is_waited_out_while_results_are_collected(use: Any) -> None:
    async def test(house: House) -> None:
        record = await house.batch()
        task = asyncio.create_task(house.runner.run(leased(record)))
        while not await house.client.exists(job_key(line_job_id(record.id, WINDOW - 1))):
            await asyncio.sleep(0.01)
        await house.client.config_set("maxmemory", 1)
        try:
            leases = CourierLeases(house.client, "echo", "tester", house.settings)
            held = await leases.reserve(WINDOW)
            ids = [id_of(one.message) for one in held]
            await leases.finish(
                [
                    FinishedJob(one.tag, job_id, result_of(1), one.tenant)
                    for one, job_id in zip(held, ids, strict=True)
                ]
            )
            while await house.client.exists(*map(meta_key, ids)):
                await asyncio.sleep(0.02)  # until they are in the file
            assert not task.done()
        finally:
            await house.client.config_set("maxmemory", 0)
        async with house.served():
            assert await task == Done()
        assert await house.numbers(record.output_file) == list(range(LINES))

    use(test)


def test_a_run_that_another_has_replaced_changes_nothing(use: Any) -> None:
    async def test(house: House) -> None:
        record = await house.batch()
        first = asyncio.create_task(house.runner.run(leased(record)))
        while not await house.client.exists(job_key(line_job_id(record.id, 1))):
            await asyncio.sleep(0.01)
        second = asyncio.create_task(house.runner.run(leased(record)))
        async with house.served():
            assert await asyncio.gather(first, second) == [Done(), Done()]
        assert await house.status(record) == "completed"
        assert await house.numbers(record.output_file) == list(range(LINES))

    use(test)


def test_the_sweep_takes_expired_files_and_what_nothing_lists(use: Any) -> None:
    async def test(house: House) -> None:
        files, now_ms = house.files, int(time.time() * 1000)
        kept, expired, orphan = new_file_id(), new_file_id(), new_file_id()
        for one, until in ((kept, now_ms + 60_000), (expired, now_ms - 1)):
            await files.append(one, b"x")
            await files.add(FileRecord(one, "acme", "batch", "f", 1, now_ms, until))
        await files.store_part(orphan, b"x")
        assert await files.get(expired, "acme") is None
        assert await files.get(kept, "other") is None
        await asyncio.sleep(0.01)
        assert await files.sweep("me", 1, 0) == 2
        assert [one.id for one in await files.get_many([kept, expired], "acme")] == [kept]
        left = [name async for page in house.blobs.older_than(-60) for name in page]
        assert [name.rpartition("-")[0] for name in left] == [kept]
        assert await files.list_ids("acme") == [kept]
        assert await files.sweep("me", 1, 0) == 0  # somebody has just swept

    use(test)


def test_a_tenant_keeps_no_more_than_it_may(use: Any) -> None:
    async def test(house: House) -> None:
        async def add(tenant: str, size: int) -> None:
            file_id, now_ms = new_file_id(), int(time.time() * 1000)
            await house.files.append(file_id, b"x" * size)
            record = FileRecord(file_id, tenant, "batch", "f", size, now_ms, now_ms * 2)
            await house.files.add(record, 2, 10)

        await add("acme", 6)
        with pytest.raises(FileStoreFull, match="more than 10"):
            await add("acme", 5)
        await add("acme", 4)
        with pytest.raises(FileStoreFull, match="keeps 2 files"):
            await add("acme", 0 + 1)
        await add("other", 10)

    use(test)
