"""How a batch ends: what its files have, and what webhooks tell, also where its input is gone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.batches.files import Files
from common.batches.records import BatchRecord, BatchStatus, FileRecord, new_file_id
from common.inputs.blobs import ObjectBlobs
from common.jobs.enqueue import enqueue_args
from common.jobs.job import Job
from common.jobs.system_lanes import BATCHES
from common.redis.keys import BATCH_PREFIX, EVENTS, LaneKeys
from common.redis.scripts import AsyncScripts
from common.webhooks.events import read_entry
from tests.process.worker.courier import test_batch_runner
from tests.process.worker.courier.test_batch_runner import WINDOW, House, leased
from worker.courier.jobs import Done, Later

use = test_batch_runner.use


async def events(house: House) -> list[dict[str, Any]]:
    found = await house.client.xrange(EVENTS)
    return [json.loads(read_entry(fields, 100, "").body) for _, fields in found]


async def forget_input(house: House, record: BatchRecord) -> None:
    """As its deletion, or its expiry, does."""
    file = await house.files.get(record.input_file, "acme")
    assert file is not None
    await house.files.delete(file)


async def lose_input(house: House, record: BatchRecord) -> None:
    """As a folder that is not mounted does."""
    names = [name for name, _ in await house.files.parts(record.input_file)]
    await house.blobs.delete(names)


async def stop_half_way(house: House, record: BatchRecord) -> int:
    """Have some lines written, then the courier die; how many were."""
    async with house.served(pause=0.01):
        task = asyncio.create_task(house.runner.run(leased(record)))
        key = BATCH_PREFIX + record.id
        while int(await house.client.hget(key, "completed")) < WINDOW:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return int(await house.client.hget(key, "completed"))


async def completes(house: House) -> BatchRecord:
    record = await house.batch(5)
    async with house.served():
        assert await house.runner.run(leased(record)) == Done()
    return record


async def is_no_batch(house: House) -> BatchRecord:
    record = await house.batch(5, endpoint="/v1/embeddings")
    assert await house.runner.run(leased(record)) == Done()
    return record


async def loses_its_input(house: House) -> BatchRecord:
    record = await house.batch()
    done = await stop_half_way(house, record)
    await forget_input(house, record)
    assert await house.runner.run(leased(record)) == Done()
    numbers = await house.numbers(record.output_file)
    assert numbers == list(range(done)), "what was done is there, and it is not said to be all"
    assert b"input_file_gone" in await house.client.hget(BATCH_PREFIX + record.id, "errors")
    return record


async def expires(house: House) -> BatchRecord:
    record = await house.batch(seconds=-1)
    assert await house.runner.run(leased(record)) == Done()
    return record


async def is_canceled(house: House) -> BatchRecord:
    record = await house.batch(5, status=BatchStatus.CANCELLING)
    assert await house.runner.run(leased(record)) == Done()
    return record


ENDS: dict[Callable[[House], Any], str] = {
    completes: "completed",
    is_no_batch: "failed",
    loses_its_input: "failed",
    expires: "expired",
    is_canceled: "cancelled",
}


@pytest.mark.parametrize("end", ENDS)
def test_every_end_is_told_once(use: Any, end: Callable[[House], Any]) -> None:
    async def test(house: House) -> None:
        record = await end(house)
        assert await house.status(record) == ENDS[end]
        (told,) = await events(house)
        assert told["type"] == f"batch.{ENDS[end]}"
        assert (told["data"]["id"], told["data"]["status"]) == (record.id, ENDS[end])
        assert await house.runner.run(leased(record)) == Done()
        assert len(await events(house)) == 1

    use(test)


def test_a_batch_whose_input_cannot_be_read_is_canceled_all_the_same(use: Any) -> None:
    async def test(house: House) -> None:
        record = await house.batch()
        done = await stop_half_way(house, record)
        await lose_input(house, record)
        assert isinstance(await house.runner.run(leased(record)), Later)
        await house.client.hset(BATCH_PREFIX + record.id, "status", "cancelling")
        assert await house.runner.run(leased(record)) == Done()
        assert await house.status(record) == "cancelled"
        assert await house.numbers(record.output_file) == list(range(done))

    use(test)


@pytest.mark.parametrize("begun", [True, False])
def test_a_batch_whose_input_cannot_be_read_expires_all_the_same(use: Any, begun: bool) -> None:
    async def test(house: House) -> None:
        record = await house.batch()
        if begun:
            await stop_half_way(house, record)
        await lose_input(house, record)
        assert isinstance(await house.runner.run(leased(record)), Later)
        await house.client.hset(BATCH_PREFIX + record.id, "expires_ms", int(time.time() * 1000))
        assert await house.runner.run(leased(record)) == Done()
        assert await house.status(record) == "expired"
        errors = await house.client.hget(BATCH_PREFIX + record.id, "errors")
        assert (b"input_unreadable" in errors) is begun

    use(test)


def test_a_batch_that_is_canceled_as_it_expires_is_canceled(
    use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(house: House) -> None:
        record = await house.batch(seconds=-1)
        publish = house.files.add

        async def canceled_now(file: FileRecord, *more: int) -> None:
            await publish(file, *more)
            await house.client.hset(BATCH_PREFIX + record.id, "status", "cancelling")

        monkeypatch.setattr(house.files, "add", canceled_now)
        assert await house.runner.run(leased(record)) == Done()
        assert await house.status(record) == "cancelled"
        assert [one["type"] for one in await events(house)] == ["batch.cancelled"]

    use(test)


def test_a_job_that_expired_by_the_workers_clock_is_an_unfinished_line(use: Any) -> None:
    async def test(house: House) -> None:
        record = await house.batch(3)
        task = asyncio.create_task(house.runner.run(leased(record)))
        lane = LaneKeys.of("echo")
        while sum([await house.client.llen(band) for band in lane.bands]) < 3:
            await asyncio.sleep(0.01)
        scripts = AsyncScripts(house.client)
        for key in await house.client.keys("lf:job:*"):
            await scripts.run("cancel", (), (key.decode().removeprefix("lf:job:"), 60, "expired"))
        assert await task == Done()
        whole = b"".join([part async for part in house.files.read(record.error_file)])
        codes = [json.loads(one)["error"]["code"] for one in whole.splitlines()]
        assert codes == ["batch_expired"] * 3

    use(test)


def test_batches_that_wait_get_their_turn(use: Any) -> None:
    """Batches of days in all places of a courier would hold up every other."""

    async def test(house: House) -> None:
        house.runner._settings = replace_turn(house.settings, 0.05)
        long, short = await house.batch(), await house.batch(3)
        task = asyncio.create_task(house.runner.run(leased(long)))
        await asyncio.sleep(0.2)
        assert not task.done(), "no other waits"
        waiting = Job(BATCHES, short.id, id="k", tenant="~other")
        await AsyncScripts(house.client).run("enqueue", (), enqueue_args([waiting], 10))
        outcome = await task
        assert isinstance(outcome, Later)
        async with house.served():
            assert await house.runner.run(leased(short)) == Done()
            await house.client.delete(*LaneKeys.of(BATCHES).bands)
            assert await house.runner.run(leased(long)) == Done()
        assert await house.numbers(long.output_file) == list(range(test_batch_runner.LINES))

    use(test)


def replace_turn(settings: Any, seconds: float) -> Any:
    return settings.model_copy(update={"batch_turn_seconds": seconds})


def test_all_expired_files_are_swept_and_unfinished_ones_are_not_kept(use: Any) -> None:
    async def test(house: House) -> None:
        files, now_ms = house.files, int(time.time() * 1000)
        for _ in range(120):
            file_id = new_file_id()
            await files.append(file_id, b"x")
            assert 0 < await house.client.ttl(f"lf:file-parts:{file_id}") <= 3_600
            await files.add(FileRecord(file_id, "acme", "batch", "f", 1, now_ms, now_ms - 1))
        assert await files.sweep("me", 1, 3_600) == 120
        assert await files.list_ids("acme") == []
        assert [name async for page in house.blobs.older_than(-60) for name in page] == []

    use(test)


def test_a_file_without_parts_is_gone_and_not_empty(use: Any) -> None:
    async def test(house: House) -> None:
        with pytest.raises(Exception, match="was deleted, or expired"):
            await anext(Files(house.client, house.blobs).read(new_file_id()))

    use(test)


def test_files_lie_in_an_object_store_alike(use: Any, tmp_path: Path) -> None:
    """And under a prefix of the store of inputs, whose sweep takes none of them."""
    store = pytest.importorskip("obstore.store")
    folder = tmp_path / "objects"
    (folder / "files").mkdir(parents=True)

    async def test(house: House) -> None:
        inputs = ObjectBlobs(store.LocalStore(folder))
        house.files._blobs = ObjectBlobs(store.LocalStore(folder / "files"))
        record = await completes(house)
        assert await house.numbers(record.output_file) == list(range(5))
        assert [name async for page in inputs.older_than(-60) for name in page] == []
        lost = await house.files.store_part(new_file_id(), b"x")
        assert await house.files.sweep("me", 1, -60) == 1
        assert await house.files._blobs.get(lost.split(" ")[0]) is None
        assert await house.numbers(record.output_file) == list(range(5))
        await forget_input(house, record)
        names = [one.name for one in (folder / "files").iterdir()]
        assert [name.rpartition("-")[0] for name in names] == [record.output_file]

    use(test)


def test_a_clock_that_is_set_forward_expires_nothing(
    use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(house: House) -> None:
        record = await house.batch(5)
        clock = time.time
        monkeypatch.setattr(time, "time", lambda: clock() + 366 * 86_400)
        async with house.served():
            assert await house.runner.run(leased(record)) == Done()
        assert await house.status(record) == "completed"
        assert await house.files.sweep("me", 1, 1e10) == 0
        assert await house.files.get(record.input_file, "acme") is not None
        assert await house.numbers(record.output_file) == list(range(5))

    use(test)
