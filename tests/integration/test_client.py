"""The Python client against a real fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.client import ApiError, AsyncClient, Client, JobFailed
from common.redis.embedded_server import RedisServer
from tests.support.stack import ApiProcess, Stack


@pytest.fixture(scope="module")
def api(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = Stack(embedded_redis.url, tmp_path_factory.mktemp("client"))
    made.redis.flushall()
    made.worker("echo")
    yield made.api("echo,minilm")
    made.close()


@pytest.fixture
def client(api: ApiProcess) -> Iterator[Client]:
    with Client(api.url) as made:
        yield made


def test_a_map_gives_every_result_in_order(client: Client) -> None:
    jobs = list(client.map("echo", (f"{n}" * 3 for n in range(3000)), chunk=250, window=1000))
    assert [job["result"]["length"] for job in jobs] == [len(f"{n}" * 3) for n in range(3000)]
    assert jobs[7]["index"] == 7
    assert client.get(jobs[7]["id"])["result"] == jobs[7]["result"]


def test_a_map_out_of_order_gives_the_quick_before_the_slow(client: Client) -> None:
    slow = client.submit("echo", "slow", params={"sleep_ms": 300})
    jobs = list(client.map("echo", range(600), ordered=False, chunk=100))
    assert sorted(job["index"] for job in jobs) == list(range(600))
    assert client.wait(slow["id"], timeout=10)["state"] == "succeeded"


def test_errors_of_a_map_come_one_by_one(client: Client) -> None:
    with pytest.raises(JobFailed, match="input 0: invalid_input"):
        list(client.map("minilm", [5]))
    jobs = list(client.map("echo", ["a"], params={"fail": "on purpose"}, on_error="return"))
    assert (jobs[0]["state"], jobs[0]["error"]["reason"]) == ("failed", "attempts_exhausted")


def test_the_asynchronous_client_does_it_all(api: ApiProcess) -> None:
    async def run() -> None:
        async with AsyncClient(api.url) as client:
            job = await client.submit("echo", {"hello": "world"}, wait=10)
            assert job["result"]["length"] == 17
            assert (await client.get(job["id"]))["state"] == "succeeded"
            assert (await client.wait(job["id"]))["state"] == "succeeded"
            jobs = [job async for job in client.map("echo", range(1200), chunk=100)]
            assert [job["index"] for job in jobs] == list(range(1200))
            events = [event async for event in client.events(job["id"])]
            assert events[-1].job["result"] == job["result"]
            late = await client.submit("echo", "late", params={"sleep_ms": 500})
            assert (await client.cancel(late["id"]))["state"] == "canceled"
            assert {model["name"] for model in await client.models()} == {"echo", "minilm"}
            assert (await client.lanes())["echo"]["succeeded"] > 0
            with pytest.raises(ApiError, match="no job"):
                await client.get("nope")

    asyncio.run(run())


def test_results_of_many_come_as_they_are_settled(api: ApiProcess, client: Client) -> None:
    done = client.submit("echo", "done", wait=5)
    never = client.submit("minilm", "nobody runs it here")
    ids = [never["id"], done["id"], "nope", done["id"]]
    answer = httpx.post(
        f"{api.url}/v1/jobs/results", json={"ids": ids}, headers={"Prefer": "wait=1"}
    )
    lines = [httpx.Response(200, content=line).json() for line in answer.text.splitlines()]
    assert [line["id"] for line in lines] == ["nope", done["id"], never["id"]]
    assert lines[0]["error"]["status"] == 404
    assert (lines[1]["state"], lines[2]["state"]) == ("succeeded", "queued")
    client.cancel(never["id"])
    for wrong in ({}, {"ids": []}, {"ids": [""]}, {"ids": [f"{n}" for n in range(2049)]}):
        assert httpx.post(f"{api.url}/v1/jobs/results", json=wrong).status_code == 422


def test_a_stream_follows_a_job_to_its_end(client: Client) -> None:
    job = client.submit("echo", "slow", params={"sleep_ms": 1200})
    events = list(client.events(job["id"]))
    assert [event.state for event in events] == ["queued", "running", "succeeded"]
    assert events[-1].job["result"]["length"] == 4


def test_a_submit_under_one_key_is_one_job(client: Client) -> None:
    first = client.submit("echo", "once", idempotency_key="k-1")
    assert client.submit("echo", "once", idempotency_key="k-1")["id"] == first["id"]
    with pytest.raises(ApiError, match="another body"):
        client.submit("echo", "twice", idempotency_key="k-1")


def test_a_file_goes_as_it_is(client: Client, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("hello")
    assert client.submit_file("echo", tmp_path / "words.txt", wait=10)["result"]["length"] == 5
