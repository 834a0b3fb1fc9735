"""Errors that are pickled, and many requests at once."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from api.client import (
    ApiError,
    AsyncClient,
    Client,
    ClientError,
    JobFailed,
    RetryPolicy,
    StillRunning,
    WebhookInvalid,
)

JOB: Any = {
    "id": "j1",
    "model": "echo",
    "state": "failed",
    "index": 3,
    "error": {"reason": "invalid_input", "message": "not so"},
}


class OwnError(ApiError):
    """A program's own kind."""


def _tree(root: type) -> set[type]:
    return {root}.union(*(_tree(each) for each in root.__subclasses__()))


SAMPLES: dict[type, Exception] = {
    ClientError: ClientError("said so"),
    ApiError: ApiError(429, {"detail": "later"}, httpx.Headers({"Retry-After": "7"})),
    JobFailed: JobFailed(JOB),
    WebhookInvalid: WebhookInvalid("no signature of it is by this secret"),
    StillRunning: StillRunning({"id": "j1", "model": "echo", "state": "queued"}, 2.5),
}


def test_there_is_a_sample_of_every_error() -> None:
    ours = {each for each in _tree(ClientError) if each.__module__.startswith("api.client")}
    assert ours == set(SAMPLES)


@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling(kind: type, protocol: int) -> None:
    error = SAMPLES[kind]
    error.__notes__ = ["of shard 7"]
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is kind
    assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_an_error_of_a_subclass_and_those_of_httpx_survive_as_well() -> None:
    copy = pickle.loads(pickle.dumps(OwnError(503, {"detail": "x"}, {"retry-after": "1"})))
    assert (type(copy), copy.status, copy.headers) == (OwnError, 503, {"retry-after": "1"})
    lost = httpx.ConnectError("refused", request=httpx.Request("GET", "http://fleet/v1/jobs/j"))
    kept = pickle.loads(pickle.dumps(lost))
    assert (str(kept), kept.request.url) == ("refused", "http://fleet/v1/jobs/j")


def test_a_thousand_requests_at_once_take_turns() -> None:
    busy = most = 0

    async def handle(request: httpx.Request) -> httpx.Response:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0)
        busy -= 1
        return httpx.Response(202, json={"id": request.url.path, "state": "queued"})

    async def run(**options: Any) -> int:
        nonlocal most
        most = 0
        http = httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://fleet")
        async with AsyncClient(http=http, **options) as client:
            jobs = await asyncio.gather(*(client.submit("echo", n) for n in range(1000)))
        assert len(jobs) == 1000
        return most

    assert asyncio.run(run()) == 100
    assert asyncio.run(run(max_connections=7)) == 7


def test_threads_take_turns_too() -> None:
    gate, inside = threading.Semaphore(0), []

    def handle(request: httpx.Request) -> httpx.Response:
        inside.append(request.url.path)
        gate.acquire()
        return httpx.Response(200, json={"id": "x", "state": "queued"})

    http = httpx.Client(transport=httpx.MockTransport(handle), base_url="http://fleet")
    with Client(http=http, max_connections=2) as client, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(client.get, f"{n}") for n in range(8)]
        for done in range(8):
            while len(inside) < min(done + 2, 8):
                threading.Event().wait(0.001)
            assert len(inside) <= done + 2
            gate.release()
        assert len([answer.result() for answer in answers]) == 8


def test_streams_that_last_take_no_turn() -> None:
    class Quiet(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b'event: queued\nid: 1\ndata: {"id": "j", "state": "queued"}\n\n'
            await asyncio.Event().wait()

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(200, stream=Quiet())
        return httpx.Response(200, json={"id": "j", "state": "queued"})

    async def run() -> str:
        http = httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://fleet")
        async with AsyncClient(http=http, max_connections=1) as client:
            followed = [client.events("j") for _ in range(3)]
            for one in followed:
                assert (await anext(one)).state == "queued"
            state = (await client.get("j"))["state"]
            for one in followed:
                await one.aclose()
            return state

    assert asyncio.run(asyncio.wait_for(run(), 30)) == "queued"


def test_a_closed_client_says_so_and_a_limit_has_to_be_one() -> None:
    client = Client("http://127.0.0.1:9", retries=RetryPolicy(0))
    client.close()
    with pytest.raises(ClientError, match="closed"):
        client.get("j1")
    with pytest.raises(ValueError, match="at least 1"):
        AsyncClient(max_connections=0)
