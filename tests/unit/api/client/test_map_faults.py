"""A `map` whose inputs, consumer or fleet misbehave."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from api.client import ApiError, AsyncClient, Client, JobFailed, RetryPolicy
from tests.support.stack import wait_until
from tests.unit.api.client.test_manifest import Fleet

QUICK = RetryPolicy(2, first_pause_seconds=0.001)


class Gone(Exception):
    """What a source of inputs raises."""


def breaking(count: int, error: type[BaseException] = Gone) -> Iterator[int]:
    yield from range(count)
    raise error


def map_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if "_run_chunk" in one.name]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("error", [Gone, KeyboardInterrupt, SystemExit])
def test_what_the_inputs_raise_is_raised(ordered: bool, error: type[BaseException]) -> None:
    fleet, before = Fleet(), map_threads()
    jobs = fleet.client().map("echo", breaking(1000, error), ordered=ordered, chunk=100, window=300)
    taken = []
    with pytest.raises(error):
        taken.extend(job["index"] for job in jobs)
    assert len(taken) >= 700, "what was done before is yielded before"
    assert list(jobs) == []
    wait_until(lambda: map_threads() == before, 10, "its threads to end")


def test_inputs_that_raise_at_once_submit_nothing() -> None:
    fleet = Fleet()
    with pytest.raises(Gone):
        list(fleet.client().map("echo", breaking(0)))
    with pytest.raises(TypeError):
        list(fleet.client().map("echo", 7))  # type: ignore[arg-type]
    assert fleet.ran == []


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_that_is_left_in_the_middle_submits_no_more(ordered: bool) -> None:
    fleet, before = Fleet(), map_threads()
    jobs = fleet.client().map("echo", range(10_000), ordered=ordered, chunk=10, window=50)
    for _ in range(25):
        next(jobs)
    jobs.close()  # type: ignore[attr-defined]
    wait_until(lambda: map_threads() == before, 10, "its threads to end")
    assert len(fleet.ran) <= 25 + 50 + 10


def test_every_form_of_on_error() -> None:
    inputs = ["a", "bad", float("nan"), "c"]
    fleet = Fleet(fail="bad")
    returned = list(fleet.client().map("echo", inputs, on_error="return"))
    assert [job["state"] for job in returned] == ["succeeded", "failed", "failed", "succeeded"]
    assert returned[2]["error"]["reason"] == "invalid_input"
    skipped = fleet.client().map("echo", inputs, on_error="skip", ordered=False)
    assert sorted(job["index"] for job in skipped) == [0, 3]
    with pytest.raises(JobFailed, match="input 1"):
        list(fleet.client().map("echo", inputs))


def test_a_pause_is_told_with_its_reason() -> None:
    class Stop(Exception):
        pass

    told: list[tuple[str, float]] = []

    def tell(why: str, seconds: float) -> None:
        told.append((why, seconds))
        raise Stop

    def full(request: httpx.Request) -> httpx.Response:
        error = {"status": 429, "detail": "the lane is full", "retry_after": 120}
        lines = range(1, request.content.count(b"\n") + 1)
        said = "\n".join(json.dumps({"line": n, "error": error}) for n in lines)
        return httpx.Response(200, content=said + "\n")

    http = httpx.Client(transport=httpx.MockTransport(full), base_url="http://fleet")
    patient = RetryPolicy(2, longest_retry_after_seconds=3600)
    with pytest.raises(Stop):
        list(Client(http=http, retries=patient).map("echo", [1, 2], on_pause=tell))
    ((why, seconds),) = told
    assert (why, 120 <= seconds < 121) == ("the lane is full", True)


def test_an_answer_about_no_line_refuses_none() -> None:
    fleet = Fleet()
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if asked == ["/v1/jobs/bulk"]:  # its key was revoked in the middle
            taken = next(fleet._taken(request.content))
            last = b'{"line":0,"error":{"status":401,"detail":"gone"}}\n'
            return httpx.Response(200, content=taken + last)
        if request.url.path.endswith("/bulk"):
            return httpx.Response(401, json={"status": 401, "detail": "no such key"})
        return fleet._answer(request)

    http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://fleet")
    with pytest.raises(ApiError, match="no such key"):
        list(Client(http=http, retries=QUICK).map("echo", ["a", "b", "c"]))


def asynchronous(fleet: Fleet) -> AsyncClient:
    async def answer(request: httpx.Request) -> httpx.Response:
        return fleet._answer(request)

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://fleet")
    return AsyncClient(http=http, retries=QUICK)


def test_the_asynchronous_map_does_the_same() -> None:
    async def inputs(count: int) -> AsyncIterator[int]:
        for n in range(count):
            yield n
        raise Gone

    async def main() -> None:
        for source in (inputs(500), breaking(500)):
            jobs = asynchronous(Fleet()).map("echo", source, chunk=50, window=100)
            with pytest.raises(Gone):
                [job async for job in jobs]
        fleet = Fleet()
        jobs = asynchronous(fleet).map("echo", range(9_000), ordered=False, chunk=10, window=50)
        async for _ in jobs:
            break
        await jobs.aclose()
        ran = len(fleet.ran)
        assert ran <= 60
        await asyncio.sleep(0.05)
        assert len(fleet.ran) == ran
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_jobs_without_details_say_their_model() -> None:
    asked: list[Any] = []
    fleet = Fleet()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("prefer", ""))
        return fleet._answer(request)

    http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://fleet")
    (job,) = Client(http=http).map("echo", ["a"], details=False)
    assert job["model"] == "echo"
    assert any("return=minimal" in one for one in asked)
