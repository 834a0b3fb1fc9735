"""The clients' streams of text: resumed where they broke, and ended with what the job ends with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from api.client import ApiError, AsyncClient, Client, JobFailed, RetryPolicy, Token

QUICK = RetryPolicy(retries=2, first_pause_seconds=0.001)


def state(name: str, event_id: str, **more: Any) -> bytes:
    job = {"id": "a", "model": "words", "state": name, **more}
    return f"event: {name}\nid: {event_id}\ndata: {json.dumps(job)}\n\n".encode()


def token(text: str, event_id: str) -> bytes:
    data = {"text": text, "tokens": [1], "choice": 0}
    return f"event: token\nid: {event_id}\ndata: {json.dumps(data)}\n\n".encode()


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Parts of an answer, and then no more of it."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        yield from self._parts
        raise httpx.ReadError("the connection is lost")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part
        raise httpx.ReadError("the connection is lost")


class Api:
    """Answers one request after the other with these, and keeps what it was asked."""

    def __init__(self, *answers: httpx.Response) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self.answers.pop(0)

    def read(self, **options: Any) -> list[Token]:
        http = httpx.Client(base_url="http://fleet", transport=httpx.MockTransport(self))
        with Client(retries=QUICK, http=http) as client:
            return list(client.generate_stream("hello", "words", **options))

    async def read_async(self, **options: Any) -> list[Token]:
        http = httpx.AsyncClient(base_url="http://fleet", transport=httpx.MockTransport(self))
        async with AsyncClient(retries=QUICK, http=http) as client:
            return [one async for one in client.generate_stream("hello", "words", **options)]


def answers() -> Api:
    return Api(
        httpx.Response(200, stream=Broken(state("queued", "1-0"), token("a", "1-0.1.1"))),
        httpx.Response(503, json={"detail": "busy"}),
        httpx.Response(200, content=token("b", "1-0.2.2") + state("succeeded", "1-end")),
    )


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("policy", [None, "continue"])
def test_a_stream_goes_on_where_it_broke(blocking: bool, policy: str | None) -> None:
    api = answers()
    options = {} if policy is None else {"on_disconnect": policy}
    told = api.read(**options) if blocking else asyncio.run(api.read_async(**options))
    assert [one.text for one in told] == ["a", "b"]
    first, _, last = api.asked
    assert json.loads(first.content) == {
        "text": "hello", "model": "words", "stream": True, **options,
    }  # fmt: skip
    assert first.headers["idempotency-key"]
    assert last.url.path == "/v1/jobs/a/events"
    assert last.url.params["on_disconnect"] == (policy or "cancel")
    assert last.headers["last-event-id"] == "1-0.1.1"


def test_a_stream_that_broke_before_its_job_was_known_is_asked_for_again() -> None:
    api = Api(
        httpx.Response(200, stream=Broken(b"retry: 1000\n\n")),
        httpx.Response(200, content=token("a", "1-0.1.1") + state("succeeded", "1-end")),
    )
    assert [one.text for one in api.read()] == ["a"]
    keys = {one.headers["idempotency-key"] for one in api.asked}
    assert (len(keys), {one.url.path for one in api.asked}) == (1, {"/v1/generate"})


def test_a_job_without_a_result_raises_with_its_reason() -> None:
    error = {"reason": "canceled", "message": "canceled by request"}
    ended = token("a", "1-0.1.1") + state("canceled", "1-end", error=error)
    with pytest.raises(JobFailed, match="canceled by request"):
        Api(httpx.Response(200, content=ended)).read()


def test_a_refusal_is_raised_at_once() -> None:
    api = Api(httpx.Response(422, json={"detail": "`top_q`: there is no such option"}))
    with pytest.raises(ApiError, match="top_q"):
        api.read()
    assert len(api.asked) == 1


def test_a_text_that_takes_longer_is_waited_for() -> None:
    result = {"text": "hello", "finish_reason": "stop", "usage": {}, "seed": 3}
    job = {"id": "a", "model": "words", "state": "queued"}
    done = {**job, "state": "succeeded", "result": result, "infer_ms": 250.0, "version": "2"}
    api = Api(httpx.Response(202, json=job), httpx.Response(200, json=done))
    http = httpx.Client(base_url="http://fleet", transport=httpx.MockTransport(api))
    with Client(http=http) as client:
        found = client.generate("hi", timeout=5)
    assert found == {
        "generated_text": "hello", "inference_time": 0.25, "model_version": "2",
        "request_id": "a", "finish_reason": "stop", "usage": {}, "seed": 3,
    }  # fmt: skip
    assert api.asked[0].headers["prefer"] == "wait=5"
