"""What the client does when things go wrong: retries, lost connections, lanes that are full."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

import api.client
from api.client import (
    ApiError,
    AsyncClient,
    Client,
    ClientError,
    Event,
    JobFailed,
    RetryPolicy,
    StillRunning,
)
from api.client.calls import base_url_of, headers_of
from api.client.retries import Attempts, retry_after_seconds
from api.client.sse import EventReader

QUICK = RetryPolicy(4, first_pause_seconds=0.001, longest_pause_seconds=0.002)
QUEUED = {"id": "j1", "model": "echo", "state": "queued", "attempts": 0}
DONE = {**QUEUED, "state": "succeeded", "result": {"length": 1}}

Answer = Callable[[httpx.Request], httpx.Response]


def client_of(*answers: httpx.Response | Exception | Answer) -> tuple[Client, list[httpx.Request]]:
    """A client whose server gives these answers, and the requests it got."""
    seen: list[httpx.Request] = []
    script = iter(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = next(script)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else answer(request)

    http = httpx.Client(transport=httpx.MockTransport(handle), base_url="http://fleet")
    return Client(retries=QUICK, http=http), seen


def busy(status: int = 429, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"detail": "later"}, headers=headers)


def test_what_it_offers_is_listed() -> None:
    assert set(api.client.__all__) == {
        name for name, value in vars(api.client).items() if name[0].isupper()
    } | {"verify_webhook"}


def test_a_submit_is_repeated_under_one_key_until_it_is_taken() -> None:
    client, seen = client_of(
        httpx.ConnectError("refused"),
        busy(429, **{"Retry-After": "0"}),
        httpx.ReadError("lost"),
        busy(503),
        httpx.Response(202, json=QUEUED),
    )
    assert client.submit("echo", "x", priority=3)["state"] == "queued"
    keys = {request.headers["idempotency-key"] for request in seen}
    bodies = {request.content for request in seen}
    assert (len(seen), len(keys), len(bodies)) == (5, 1, 1)
    assert json.loads(bodies.pop()) == {"model": "echo", "input": "x", "priority": 3}


def test_two_submits_have_two_keys_and_yours_is_taken() -> None:
    taken = httpx.Response(202, json=QUEUED)
    client, seen = client_of(taken, taken, taken)
    client.submit("echo", 1)
    client.submit("echo", 1)
    client.submit("echo", 1, idempotency_key="mine")
    keys = [request.headers["idempotency-key"] for request in seen]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


def test_a_form_is_repeated_byte_for_byte(tmp_path: Any) -> None:
    (tmp_path / "a.png").write_bytes(b"pixels")
    client, seen = client_of(httpx.ReadTimeout("slow"), httpx.Response(202, json=QUEUED))
    client.submit_file("resnet50", tmp_path / "a.png", params={"top_k": 1})
    assert seen[0].read() == seen[1].read()
    assert b'{"top_k": 1}' in seen[0].content


def test_what_must_not_be_done_twice_is_not_repeated_once_sent() -> None:
    client, seen = client_of(httpx.ReadError("lost"))
    with pytest.raises(httpx.ReadError):
        client.retry_dead("echo")
    assert len(seen) == 1
    client, seen = client_of(httpx.ConnectError("refused"), httpx.Response(200, json={"jobs": 2}))
    assert client.retry_dead("echo") == 2


def test_a_client_error_is_raised_at_once_and_a_stubborn_one_in_the_end() -> None:
    client, seen = client_of(httpx.Response(422, json={"detail": "no such field"}))
    with pytest.raises(ApiError, match="no such field") as caught:
        client.submit("echo", 1)
    assert (caught.value.status, len(seen)) == (422, 1)
    client, seen = client_of(*[busy()] * 5)
    with pytest.raises(ApiError, match="later"):
        client.get("j1")
    assert len(seen) == 5
    client, _ = client_of(busy(429, **{"Retry-After": "3600"}))
    with pytest.raises(ApiError):
        client.get("j1")


def test_pauses_double_are_spread_and_heed_retry_after() -> None:
    policy = RetryPolicy(5, 1.0, 4.0, 60.0)
    most = Attempts(policy, repeatable=True, jitter=lambda _low, high: high)
    assert [most.pause(None) for _ in range(6)] == [1.0, 2.0, 4.0, 4.0, 4.0, None]
    least = Attempts(policy, repeatable=True, jitter=lambda low, _high: low)
    assert least.pause(None) == 0.5
    assert least.pause(30.0) == 30.0
    assert least.pause(61.0) is None
    now = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
    assert retry_after_seconds("7", now) == 7.0
    assert retry_after_seconds("Sat, 21 Nov 2026 12:00:30 GMT", now) == 30.0
    assert retry_after_seconds("soon", now) is None


def test_waiting_asks_again_until_the_job_is_settled_or_the_time_is_over() -> None:
    client, seen = client_of(*[httpx.Response(200, json=one) for one in (QUEUED, QUEUED, DONE)])
    assert client.wait("j1")["result"] == {"length": 1}
    assert seen[0].url.params["wait"] == "30.0"
    client, _ = client_of(httpx.Response(200, json=QUEUED))
    with pytest.raises(StillRunning, match="still queued") as late:
        client.wait("j1", timeout=0)
    assert isinstance(late.value, TimeoutError)


def test_the_key_goes_as_a_bearer_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANEFLEET_API_KEY", "from-outside")
    monkeypatch.setenv("LANEFLEET_URL", "http://elsewhere:1")
    with Client() as outside, Client(api_key="given") as given, Client(api_key="") as none:
        opened = [one._connections.pool().http for one in (outside, given, none)]
        assert opened[0].headers["authorization"] == "Bearer from-outside"
        assert opened[1].headers["authorization"] == "Bearer given"
        assert "authorization" not in opened[2].headers
        assert opened[0].base_url.host == "elsewhere"


class Fleet:
    """A server of bulk submits and results that loses connections and turns lines away."""

    def __init__(self, lose_after: int = 10**9, full_every: int = 10**9) -> None:
        self.taken: list[Any] = []
        self._lose_after = lose_after
        self._full_every = full_every
        self._lines = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/jobs/bulk":
            return httpx.Response(200, stream=_Parts(self._take(request.content.splitlines())))
        ids = json.loads(request.content)["ids"]
        assert len(ids) == len(set(ids))
        lines = [json.dumps({**DONE, "id": one, "result": self.taken[int(one)]}) for one in ids]
        return httpx.Response(200, content="\n".join(reversed(lines)) + "\n")

    def _take(self, lines: list[bytes]) -> Iterator[bytes]:
        for number, line in enumerate(lines, 1):
            self._lines += 1
            value = json.loads(line)["input"]
            if value == "wrong":
                problem = {"type": "x/invalid-input", "status": 422, "detail": "not so"}
                yield json.dumps({"line": number, "error": problem}).encode() + b"\n"
            elif self._lines % self._full_every == 0:
                problem = {
                    "type": "x/lane-full",
                    "status": 429,
                    "detail": "full",
                    "retry_after": 0.01,
                }
                yield json.dumps({"line": number, "error": problem}).encode() + b"\n"
            else:
                self.taken.append(value)
                yield b'{"line":%d,"id":"%d"}\n' % (number, len(self.taken) - 1)
            if self._lines % self._lose_after == 0:
                raise httpx.ReadError("lost")


class _Parts(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    async def __aiter__(self) -> Any:
        for part in self._parts:
            yield part


def mapper(fleet: Fleet) -> Client:
    http = httpx.Client(transport=httpx.MockTransport(fleet), base_url="http://fleet")
    return Client(retries=QUICK, http=http)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_survives_lost_connections_and_full_lanes(ordered: bool) -> None:
    fleet = Fleet(lose_after=37, full_every=11)
    jobs = list(mapper(fleet).map("echo", range(500), ordered=ordered, chunk=40, window=120))
    assert sorted(job["index"] for job in jobs) == list(range(500))
    assert all(job["result"] == job["index"] for job in jobs)
    assert ordered == ([job["index"] for job in jobs] == list(range(500)))


def test_the_asynchronous_map_does_the_same() -> None:
    async def run() -> list[Any]:
        transport = httpx.MockTransport(Fleet(lose_after=37, full_every=11))
        http = httpx.AsyncClient(transport=transport, base_url="http://fleet")
        async with AsyncClient(retries=QUICK, http=http) as client:
            return [job async for job in client.map("echo", range(500), chunk=40, window=120)]

    assert [job["result"] for job in asyncio.run(run())] == list(range(500))


def test_a_map_takes_inputs_only_as_results_are_taken() -> None:
    asked = 0

    def endless() -> Iterator[int]:
        nonlocal asked
        while True:
            asked += 1
            yield asked - 1

    jobs = mapper(Fleet()).map("echo", endless(), chunk=10, window=50)
    assert [job["result"] for job in islice(jobs, 1000)] == list(range(1000))
    assert asked <= 1000 + 50


def test_an_input_that_is_refused_is_raised_or_returned_in_its_place() -> None:
    inputs = [1, "wrong", 3]
    with pytest.raises(JobFailed, match="input 1: invalid_input: not so") as caught:
        list(mapper(Fleet()).map("echo", inputs))
    assert caught.value.job["index"] == 1
    jobs = list(mapper(Fleet()).map("echo", inputs, on_error="return"))
    assert [job["state"] for job in jobs] == ["succeeded", "failed", "succeeded"]
    assert jobs[1].get("error", {}).get("reason") == "invalid_input"


def test_a_lane_that_stays_full_ends_the_map_with_what_it_said() -> None:
    with pytest.raises(JobFailed, match="lane_full: full"):
        list(mapper(Fleet(full_every=1)).map("echo", range(3)))


def test_a_map_of_nothing_is_nothing_and_odd_sizes_are_refused() -> None:
    assert list(mapper(Fleet()).map("echo", [])) == []
    with pytest.raises(ValueError, match="window"):
        mapper(Fleet()).map("echo", [1], chunk=10, window=5)


def event(step: str, job: dict[str, Any]) -> bytes:
    return f"event: {job['state']}\nid: 5-{step}\ndata: {json.dumps(job)}\n\n".encode()


def test_a_stream_goes_on_where_it_was_lost() -> None:
    def first() -> Iterator[bytes]:
        yield b": still here\n\n" + event("0", QUEUED)
        raise httpx.ReadError("lost")

    running = {**QUEUED, "state": "running"}
    client, seen = client_of(
        httpx.Response(200, stream=_Parts(first())),
        httpx.Response(200, content=event("1", running)),
        httpx.Response(200, content=event("end", DONE)),
    )
    states = [one.state for one in client.events("j1")]
    assert states == ["queued", "running", "succeeded"]
    assert [one.headers.get("last-event-id") for one in seen] == [None, "5-0", "5-1"]


def test_events_are_read_whole_however_they_are_cut() -> None:
    content = event("0", QUEUED) + b": beat\r\n\r\n" + event("end", DONE)
    for size in (1, 7, 1000):
        reader = EventReader()
        found = [
            one
            for first in range(0, len(content), size)
            for one in reader.feed(content[first : first + size])
        ]
        assert found == [Event("5-0", "queued", QUEUED), Event("5-end", "succeeded", DONE)]  # type: ignore[arg-type]


def test_an_input_may_be_named_by_its_url() -> None:
    client, seen = client_of(httpx.Response(202, json=QUEUED))
    client.submit("resnet50", input_url="https://example.org/cat.jpg")
    assert json.loads(seen[0].content) == {
        "model": "resnet50",
        "input_url": "https://example.org/cat.jpg",
    }


class _Odd:
    """Not JSON."""


@pytest.mark.parametrize("ordered", [True, False])
def test_an_input_that_cannot_be_sent_has_its_place_like_others(ordered: bool) -> None:
    odd = [_Odd(), Path("/no/such.png"), float("nan"), {"x": [1.0, float("inf")]}, {1: 2}, "\ud800"]
    inputs = [0, *odd, 7, *odd]
    fleet = Fleet()
    jobs = list(
        mapper(fleet).map("echo", inputs, on_error="return", ordered=ordered, chunk=2, window=4)
    )
    assert sorted(job["index"] for job in jobs) == list(range(14))
    by_index = {job["index"]: job for job in jobs}
    done = [index for index in by_index if by_index[index]["state"] == "succeeded"]
    assert sorted(done) == [0, 7]
    failures = [by_index[index]["error"] for index in range(1, 7)]
    assert {failure["reason"] for failure in failures} == {"invalid_input"}
    assert "No such file" in failures[1]["message"]
    assert failures[2]["message"] == "ValueError: JSON has no nan"
    assert sorted(fleet.taken) == [0, 7]
    with pytest.raises(JobFailed, match=r"input 1: invalid_input: .*_Odd"):
        list(mapper(Fleet()).map("echo", inputs))


def test_fields_that_cannot_be_sent_are_refused_at_once() -> None:
    with pytest.raises(TypeError):
        mapper(Fleet()).map("echo", [1], params={1, 2})
    with pytest.raises(ValueError, match="JSON has no nan"):
        mapper(Fleet()).submit("echo", {"deep": [float("nan"), None]})


def test_the_asynchronous_map_gives_bad_inputs_their_place_and_takes_a_generator() -> None:
    read = 0

    async def endless() -> AsyncIterator[Any]:
        nonlocal read
        while True:
            read += 1
            yield _Odd() if read % 10 == 0 else read - 1

    async def run() -> list[Any]:
        transport = httpx.MockTransport(Fleet(lose_after=37))
        http = httpx.AsyncClient(transport=transport, base_url="http://fleet")
        found: list[Any] = []
        async with AsyncClient(retries=QUICK, http=http) as client:
            jobs = client.map("echo", endless(), on_error="return", chunk=10, window=50)
            async with aclosing(jobs):
                async for job in jobs:
                    found.append(job)
                    if len(found) == 1000:
                        break
        return found

    jobs = asyncio.run(run())
    assert [job["index"] for job in jobs] == list(range(1000))
    assert [job.get("result") for job in jobs] == [
        None if index % 10 == 9 else index for index in range(1000)
    ]
    assert read <= 1000 + 50 + 10 + 1


def test_slow_inputs_do_not_hold_back_results_and_their_errors_end_the_map() -> None:
    found: list[int] = []

    async def run() -> None:
        answered = asyncio.Event()

        async def inputs() -> AsyncIterator[int]:
            yield 0
            await answered.wait()  # for ever, if it takes a whole chunk
            yield 1
            raise RuntimeError("the source broke")

        http = httpx.AsyncClient(transport=httpx.MockTransport(Fleet()), base_url="http://fleet")
        async with AsyncClient(retries=QUICK, http=http) as client:
            async for job in client.map("echo", inputs()):
                found.append(job["index"])
                answered.set()

    with pytest.raises(RuntimeError, match="the source broke"):
        asyncio.run(asyncio.wait_for(run(), 30))
    assert found[:1] == [0]


def test_a_file_is_a_path_of_any_kind_or_open(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"pixels")
    taken = httpx.Response(202, json=QUEUED)
    client, seen = client_of(*[taken] * 4)
    client.submit_file("resnet50", str(tmp_path / "a.png"))
    client.submit_file("resnet50", tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        client.submit_file("resnet50", file)
    client.submit_file("resnet50", io.BytesIO(b"pixels"))
    assert all(b"pixels" in request.content for request in seen)
    named = [b'filename="a.png"' in request.content for request in seen]
    assert named == [True, True, True, False]


def test_a_result_is_given_or_why_there_is_none() -> None:
    client, _ = client_of(
        *(httpx.Response(200, json=job) for job in (DONE, {**DONE, "state": "canceled"}, QUEUED))
    )
    assert client.result("j1") == {"length": 1}
    with pytest.raises(JobFailed, match="canceled"):
        client.result("j1")
    with pytest.raises(StillRunning, match="still queued"):
        client.result("j1")


def test_jobs_are_listed_by_the_filters_given() -> None:
    client, seen = client_of(httpx.Response(200, json={"jobs": [DONE], "next_cursor": "c"}))
    page = client.list_jobs(state="succeeded", created_after=datetime(2026, 11, 21, tzinfo=UTC))
    assert (page["jobs"][0]["id"], page["next_cursor"]) == ("j1", "c")
    assert dict(seen[0].url.params) == {
        "state": "succeeded", "limit": "50", "created_after": "2026-11-21T00:00:00+00:00",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"PORT": "9001"}, "http://127.0.0.1:9001"),
        ({"HOST": "10.0.0.7", "PORT": "9001"}, "http://10.0.0.7:9001"),
        ({"HOST": "0.0.0.0"}, "http://127.0.0.1:8000"),
        ({"HOST": "::", "PORT": "0"}, "http://[::1]:8000"),
        ({"HOST": "::1"}, "http://[::1]:8000"),
        ({"URL": "https://api.example.com/", "PORT": "9001"}, "https://api.example.com/"),
        ({"URL": " localhost:8000\n"}, "http://localhost:8000"),
    ],
)
def test_the_address_follows_where_the_api_listens(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str
) -> None:
    for name in ("URL", "HOST", "PORT"):
        monkeypatch.delenv(f"LANEFLEET_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(f"LANEFLEET_{name}", value)
    assert base_url_of(None) == url
    assert base_url_of("http://given:1") == "http://given:1"


def test_a_port_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANEFLEET_URL", raising=False)
    monkeypatch.setenv("LANEFLEET_PORT", "http")
    with pytest.raises(ClientError, match="LANEFLEET_PORT must be a number"):
        Client()


@pytest.mark.parametrize("key", ["lfk_secret ", "\tlfk_secret\n", "lfk_secret\r\n"])
def test_blanks_around_a_key_do_not_count(key: str) -> None:
    assert headers_of(key) == {"Authorization": "Bearer lfk_secret"}
    assert headers_of(" ") == {}


@pytest.mark.parametrize("odd", [" ", "\n", "\x00", "\u00e9"])
def test_a_key_that_no_header_carries_is_refused_without_being_shown(odd: str) -> None:
    with pytest.raises(ClientError, match="copy it again") as told:
        AsyncClient(api_key=f"lfk_sec{odd}ret")
    assert "lfk_sec" not in str(told.value)


def test_an_address_of_something_else_is_told() -> None:
    client, _ = client_of(httpx.Response(200, text="<html>welcome</html>"), httpx.Response(302))
    for _ in range(2):
        with pytest.raises(ClientError, match="http://fleet/v1/jobs/j1 answered, but not as"):
            client.get("j1")
    with pytest.raises(ValueError, match="not empty"):
        client.cancel("")
