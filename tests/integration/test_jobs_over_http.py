"""The routes of single jobs, over sockets, against two replicas of the API and one worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.redis.embedded_server import RedisServer
from tests.support.balancer import balancing
from tests.support.proxy import FaultyProxy
from tests.support.stack import ApiProcess, Process, Stack, running_redis, wait_until

CATALOG = """
models:
  echo: {handler: echo, max_batch: 8}
  closed: {handler: echo}
  odd:
    handler: "tests.support.handlers:Recorder"
    max_batch: 1
    result_ttl_seconds: 600
    options: {ledger: LEDGER}
"""


@dataclass
class Pair:
    """Two replicas over one Redis; lane `closed` has no worker."""

    stack: Stack
    one: ApiProcess
    two: ApiProcess

    def submit(self, api: ApiProcess, model: str, value: Any, **headers: str) -> httpx.Response:
        body = value if isinstance(value, bytes) else json.dumps({"model": model, "input": value})
        return httpx.post(
            f"{api.url}/v1/jobs",
            content=body,
            headers={"content-type": "application/json"}
            | {name.replace("_", "-"): text for name, text in headers.items()},
            timeout=30,
        )

    def messages(self, job_id: str) -> int:
        """How many a job has in its lane; of the lane's length replicas take what is settled."""
        return sum(job_id.encode() in one for one in self.stack.redis.lrange("closed", 0, -1))


@pytest.fixture(scope="module")
def pair(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    catalog = folder / "models.yaml"
    catalog.write_text(CATALOG.replace("LEDGER", str(folder / "ledger")))
    environment = {
        "LANEFLEET_CATALOG": str(catalog),
        "LANEFLEET_EVENT_HEARTBEAT_SECONDS": "0.3",
        "LANEFLEET_EVENT_POLL_SECONDS": "0.1",
        "LANEFLEET_MAX_ATTEMPTS": "1",
        "LANEFLEET_HEADER_TIMEOUT_SECONDS": "300",  # a thousand requests are sent by one loop
        "LANEFLEET_SOCKET_TIMEOUT_SECONDS": "20",  # hundreds of calls starve a busy machine's loop
    }
    stack = Stack(embedded_redis.url, folder, environment)
    stack.redis.flushall()
    try:
        started: list[Process] = [stack._start("worker", ["-m", "worker"], "echo,odd", {})]
        apis = [stack.api("echo,closed,odd") for _ in range(2)]
        stack.await_worker(started[0])
        yield Pair(stack, *apis)
    finally:
        stack.close()


@dataclass
class Event:
    name: str
    id: str
    job: dict[str, Any]


class Stream:
    """Server-sent events of one job, as a browser would read them."""

    def __init__(self, api_url: str, job_id: str, last: str | None = None) -> None:
        headers = {"Last-Event-ID": last} if last else {}
        self._client = httpx.Client(timeout=20)
        self._request = self._client.stream(
            "GET", f"{api_url}/v1/jobs/{job_id}/events", headers=headers
        )
        self.response = self._request.__enter__()
        self._lines = self.response.iter_lines()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._request.__exit__(None, None, None)
        self._client.close()

    def next(self) -> Event | None:
        """The next event; None at the end of the stream."""
        fields: dict[str, str] = {}
        for line in self._lines:
            name, _, value = line.partition(": ")
            if line and not line.startswith(":"):
                fields[name] = value
            elif "event" in fields:
                return Event(fields["event"], fields["id"], json.loads(fields["data"]))
        return None

    def heartbeat(self) -> None:
        """Wait for one; the stream must be waiting for its next event."""
        assert any(line.startswith(":") for line in self._lines)

    def rest(self) -> list[Event]:
        """All events until the stream ends."""
        return list(iter(self.next, None))


def slow(milliseconds: int) -> bytes:
    return json.dumps(
        {"model": "echo", "input": "x", "params": {"sleep_ms": milliseconds}}
    ).encode()


def test_preferences_are_applied_and_said(pair: Pair) -> None:
    quick = pair.submit(pair.one, "echo", "x", Prefer="respond-async, wait=10, foo")
    assert (quick.status_code, quick.headers["preference-applied"]) == (200, "wait=10")
    late = pair.submit(pair.one, "closed", "x", Prefer="wait=0.1, respond-async")
    assert (late.status_code, late.headers["preference-applied"]) == (
        202,
        "respond-async, wait=0.1",
    )
    plain = pair.submit(pair.one, "closed", "x")
    assert "preference-applied" not in plain.headers
    assert {one.headers["vary"] for one in (quick, late, plain)} == {"Prefer"}
    job = late.json()["id"]
    looked = httpx.get(f"{pair.two.url}/v1/jobs/{job}", headers={"Prefer": "wait=0.1"})
    assert (looked.json()["state"], looked.headers["preference-applied"]) == ("queued", "wait=0.1")


def test_the_bare_result_is_a_200_or_says_why_there_is_none(pair: Pair) -> None:
    done = pair.submit(pair.one, "echo", {"a": None}, Prefer="wait=10").json()
    result = httpx.get(pair.two.url + done["links"]["result"])
    assert (result.status_code, result.json()) == (200, done["result"])
    assert "cancel" not in done["links"]

    open_ = pair.submit(pair.one, "closed", "x").json()
    early = httpx.get(pair.two.url + open_["links"]["result"], params={"wait": 0.1})
    assert (early.status_code, early.json()["state"]) == (202, "queued")
    assert early.headers["location"] == f"/v1/jobs/{open_['id']}"
    assert int(early.headers["retry-after"]) > 0

    httpx.post(pair.one.url + open_["links"]["cancel"])
    gone = httpx.get(pair.two.url + open_["links"]["result"])
    assert (gone.status_code, gone.json()["type"].rpartition("/")[2]) == (410, "job-canceled")

    failing = json.dumps({"model": "odd", "input": 1, "params": {"bad": True}}).encode()
    failed = pair.submit(pair.one, "odd", failing, Prefer="wait=10").json()
    assert failed["state"] == "failed"
    why = httpx.get(pair.two.url + failed["links"]["result"])
    assert (why.status_code, why.json()["reason"]) == (422, failed["error"]["reason"])
    assert httpx.get(f"{pair.one.url}/v1/jobs/nobody/result").status_code == 404


def test_a_dead_job_is_retried_under_its_id_and_others_are_not(pair: Pair) -> None:
    body = json.dumps({"model": "odd", "input": 1, "params": {"fail": "no"}}).encode()
    dead = pair.submit(pair.one, "odd", body, Prefer="wait=10").json()
    assert dead["error"]["reason"] == "attempts_exhausted"
    again = httpx.post(pair.two.url + dead["links"]["retry"])
    assert again.status_code == 202
    assert again.headers["location"] == again.json()["links"]["self"] == dead["links"]["self"]
    settled = pair.one.client.get(dead["id"], wait=10)
    assert (settled["state"], settled["attempts"]) == ("failed", 1)

    def retried(job: dict[str, Any]) -> tuple[int, str]:
        answer = httpx.post(f"{pair.one.url}/v1/jobs/{job['id']}/retry")
        return answer.status_code, answer.json()["type"].rpartition("/")[2]

    waiting = pair.submit(pair.one, "closed", "x").json()
    assert retried(waiting) == (409, "job-not-settled")
    pair.two.client.cancel(waiting["id"])
    assert retried(waiting) == (409, "input-not-kept")
    done = pair.submit(pair.one, "echo", "x", Prefer="wait=10").json()
    assert retried(done) == (409, "input-not-kept")
    assert retried({"id": "nobody"}) == (404, "unknown-job")


def test_a_key_stands_for_one_job_whatever_the_replica(pair: Pair) -> None:
    first = pair.submit(pair.one, "echo", "x", Idempotency_Key="k-1")
    again = pair.submit(pair.two, "echo", "x", Idempotency_Key='"k-1"')
    assert (first.status_code, "idempotent-replayed" in first.headers) == (202, False)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert again.headers["location"] == first.headers["location"]
    assert again.json()["id"] == first.json()["id"]
    waited = pair.submit(pair.two, "echo", "x", Idempotency_Key="k-1", Prefer="wait=10")
    assert (waited.status_code, waited.json()["state"]) == (200, "succeeded")
    other = pair.submit(pair.two, "echo", "y", Idempotency_Key="k-1")
    assert other.status_code == 422
    assert other.json()["type"].endswith("/idempotency-key-reused")
    refused = pair.submit(pair.one, "nope", "x", Idempotency_Key="k-2")
    assert refused.status_code == 404
    assert pair.submit(pair.one, "echo", "x", Idempotency_Key="k-2").status_code == 202
    assert pair.submit(pair.one, "echo", "x", Idempotency_Key="").status_code == 400


def test_a_key_is_forgotten_no_later_than_its_models_results(pair: Pair) -> None:
    for model, longest in (("odd", 600), ("echo", 86_400)):
        key = f"{model}-claim"
        done = pair.submit(pair.one, model, "x", Idempotency_Key=key, Prefer="wait=10").json()
        claim = pair.stack.redis.ttl("lf:idempotency::" + sha256(key.encode()).hexdigest())
        record = pair.stack.redis.ttl(f"celery-task-meta-{done['id']}")
        assert longest - 30 < claim <= record + 1, model  # two readings may lie in two seconds
        assert record <= longest, model


def test_a_form_keeps_its_key_though_its_boundary_changes(pair: Pair) -> None:
    def send(api: ApiProcess, content: bytes) -> httpx.Response:
        return httpx.post(
            f"{api.url}/v1/jobs",
            data={"model": "closed"},
            files={"file": ("a.txt", content)},
            headers={"Idempotency-Key": "form"},
        )

    first, again, other = send(pair.one, b"abc"), send(pair.two, b"abc"), send(pair.two, b"abd")
    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 422)
    assert first.json()["id"] == again.json()["id"]


def test_fifty_at_once_over_two_replicas_make_one_job(pair: Pair) -> None:
    barrier = threading.Barrier(50)

    def send(number: int) -> httpx.Response:
        barrier.wait()
        api = (pair.one, pair.two)[number % 2]
        return pair.submit(api, "closed", "same", Idempotency_Key="fifty")

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    assert {answer.status_code for answer in answers} == {202}
    ids = {answer.json()["id"] for answer in answers}
    queued = sum(map(pair.messages, ids))
    replayed = Counter(answer.headers.get("idempotent-replayed") for answer in answers)
    print(f"50 identical requests over 2 replicas: {len(ids)} id, {queued} message, {replayed}")
    assert (len(ids), queued) == (1, 1)
    assert replayed == {"true": 49, None: 1}


@pytest.mark.parametrize("queued", [False, True])
def test_an_api_killed_in_the_middle_neither_loses_nor_doubles(pair: Pair, queued: bool) -> None:
    """Killed after the claim: before the queue heard of the job, or before the API heard back."""
    key = f"killed-{queued}"
    proxy = FaultyProxy(pair.stack.redis_url)
    doomed = pair.stack.api("echo,closed,odd", LANEFLEET_REDIS_URL=proxy.url)
    proxy.last_words, proxy.last_words_arrive = b"half", queued

    def send() -> httpx.Response | None:
        with contextlib.suppress(httpx.HTTPError):
            return pair.submit(doomed, "closed", "half", Idempotency_Key=key)
        return None

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send)
        assert proxy.silenced.wait(10)
        doomed.process.kill()
        answer = sent.result()
    proxy.close()
    (claim,) = pair.stack.redis.keys("lf:idempotency::" + sha256(key.encode()).hexdigest())
    claimed_id = pair.stack.redis.get(claim).decode().split()[1]
    if queued:  # the proxy has passed it on; Redis may look at another connection first
        wait_until(lambda: pair.messages(claimed_id), 20, "the message in its lane")
    assert pair.messages(claimed_id) == queued
    again = pair.submit(pair.two, "closed", "half", Idempotency_Key=key)
    once_more = pair.submit(pair.one, "closed", "half", Idempotency_Key=key)
    assert pair.messages(claimed_id) == 1
    assert again.json()["id"] == once_more.json()["id"] == claimed_id
    assert again.headers["idempotent-replayed"] == "true"
    if answer is not None:  # it noticed the silence before it was killed, and may have tried again
        assert answer.status_code == 503 or answer.json()["id"] == claimed_id


def test_jobs_are_listed_page_by_page_whatever_the_replica(pair: Pair) -> None:
    model = "closed"
    sent = [pair.submit((pair.one, pair.two)[n % 2], model, n).json()["id"] for n in range(12)]
    seen: list[str] = []
    url = f"/v1/jobs?model={model}&state=queued&limit=5"
    turn = 0
    while url and len(seen) < 12:
        page = httpx.get((pair.two, pair.one)[turn % 2].url + url).json()
        seen += [job["id"] for job in page["jobs"]]
        pair.submit(pair.one, model, "later")
        url, turn = page["links"].get("next"), turn + 1
    assert seen[:12] == sent[::-1]
    assert turn == 3
    narrow = {"limit": 0, "state": "done", "created_after": "yesterday", "cursor": "x"}
    for name, value in narrow.items():
        answer = httpx.get(f"{pair.one.url}/v1/jobs", params={name: value})
        assert (answer.status_code, name in answer.json()["detail"]) == (422, True), name


def test_a_queued_job_shows_its_place(pair: Pair) -> None:
    first, second = (pair.submit(pair.one, "closed", n).json() for n in range(2))
    messages = pair.stack.redis.lrange("closed", 0, -1)  # what is settled may go at any time
    places = [
        next(n for n, one in enumerate(reversed(messages)) if job["id"].encode() in one)
        for job in (first, second)
    ]
    ahead = [
        httpx.get(pair.two.url + job["links"]["self"]).json()["queue_position"]
        for job in (first, second)
    ]
    assert ahead[1] - ahead[0] == places[1] - places[0] == 1
    with Stream(pair.two.url, second["id"]) as stream:
        event = stream.next()
        assert event is not None
        assert event.job["queue_position"] == ahead[1]
    done = pair.submit(pair.one, "echo", "x", Prefer="wait=10").json()
    assert "queue_position" not in done


def test_events_tell_a_life_from_the_queue_to_the_result(pair: Pair) -> None:
    job = pair.submit(pair.one, "echo", slow(800)).json()
    with Stream(pair.two.url, job["id"]) as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert stream.response.headers["cache-control"] == "no-store"
        events = stream.rest()
    assert [event.name for event in events] == ["queued", "running", "succeeded"]
    assert events[-1].job["result"] == pair.one.client.get(job["id"])["result"]
    with Stream(pair.one.url, job["id"]) as later:
        assert [event.id for event in later.rest()] == [event.id for event in events]
    with Stream(pair.one.url, job["id"], last=events[0].id) as resumed:
        assert [event.id for event in resumed.rest()] == [event.id for event in events[1:]]
    with Stream(pair.two.url, job["id"], last=events[-1].id) as over:
        assert over.response.status_code == 204
    assert httpx.get(f"{pair.one.url}/v1/jobs/nobody/events").status_code == 404


def test_a_stream_that_drops_goes_on_at_the_other_replica(pair: Pair) -> None:
    job = pair.submit(pair.one, "echo", slow(1_500)).json()
    heard = []
    with Stream(pair.one.url, job["id"]) as stream:
        while not heard or heard[-1].name != "running":
            heard.append(stream.next())
    with Stream(pair.two.url, job["id"], last=heard[-1].id) as stream:
        heard += stream.rest()
    assert [event.name for event in heard] == ["queued", "running", "succeeded"]
    assert heard[-1].job["result"]["length"] == 1


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_stream_outlives_its_replica(pair: Pair, end: signal.Signals) -> None:
    leaving = pair.stack.api("echo,closed,odd")
    job = pair.submit(pair.one, "closed", "x").json()
    with Stream(leaving.url, job["id"]) as stream:
        first = stream.next()
        assert first is not None
        began = time.monotonic()
        leaving.process.signal(end)
        with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
            assert stream.rest() == []
        assert leaving.process.stop() == (0 if end == signal.SIGTERM else -end)
    assert time.monotonic() - began < 30, "a stream must not hold up a graceful stop"
    with Stream(pair.two.url, job["id"], last=first.id) as stream:
        stream.heartbeat()
        pair.one.client.cancel(job["id"])
        assert [event.name for event in stream.rest()] == ["canceled"]


def test_hundreds_of_calls_at_once_wait_their_turn(pair: Pair) -> None:
    """More than the Redis client has connections, and none that could share a trip."""
    job = pair.submit(pair.one, "closed", "x").json()["id"]

    async def run() -> Counter[int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=pair.one.url, timeout=60, limits=limits) as client:
            calls = [
                client.request(
                    *("POST", "/v1/jobs") if n % 2 else ("POST", f"/v1/jobs/{job}/cancel"),
                    json={"model": "closed", "input": n} if n % 2 else None,
                    headers={"Idempotency-Key": f"many-{n}"},
                )
                for n in range(240)
            ]
            answers = await asyncio.gather(*calls)
            refused = [one.text for one in answers if one.status_code == 503][:1]
            assert not refused, [
                line for line in pair.one.process.output().splitlines() if "redis_failed" in line
            ][-3:]
            return Counter(answer.status_code for answer in answers)

    assert asyncio.run(run()) == {202: 120, 200: 120}


def test_two_replicas_behind_a_balancer_need_no_sticky_session(pair: Pair) -> None:
    with balancing([pair.one.url, pair.two.url]) as balancer:

        def call(method: str, path: str, **options: Any) -> httpx.Response:
            return httpx.request(method, balancer.url + path, timeout=20, **options)

        for _ in range(4):  # each call is a connection of its own, so the replicas take turns
            job = call("POST", "/v1/jobs", content=slow(200), headers=JSON).json()
            assert call("GET", job["links"]["self"]).json()["id"] == job["id"]
            with Stream(balancer.url, job["id"]) as stream:
                first = stream.next()
                assert first is not None
            with Stream(balancer.url, job["id"], last=first.id) as stream:
                assert stream.rest()[-1].name == "succeeded"
            waited = call("GET", job["links"]["self"], params={"wait": 10})
            assert waited.json()["state"] == "succeeded"
            assert call("GET", job["links"]["result"]).status_code == 200
        held = call("POST", "/v1/jobs", json={"model": "closed", "input": 1}).json()
        newest = call("GET", "/v1/jobs", params={"limit": 1}).json()["jobs"]
        assert [one["id"] for one in newest] == [held["id"]]
        assert call("POST", held["links"]["cancel"]).json()["state"] == "canceled"
        assert call("GET", held["links"]["self"]).json()["state"] == "canceled"
    print(f"connections by replica: {sorted(balancer.connections.values())}")
    assert min(balancer.connections.values()) >= 10


JSON = {"content-type": "application/json"}


def test_a_thousand_waiters_share_one_subscription(pair: Pair) -> None:
    """500 event streams and 500 long polls on one process."""
    jobs = [pair.submit(pair.one, "closed", n).json() for n in range(10)]
    base = pair.one.url
    subscribers = subscriber_count(pair.stack)
    opened: list[str] = []

    async def poll(client: httpx.AsyncClient, job_id: str) -> str:
        while True:
            answer = await client.get(f"{base}/v1/jobs/{job_id}", params={"wait": 60})
            assert answer.status_code == 200, answer.text
            if (state := str(answer.json()["state"])) != "queued":
                return state

    async def listen(client: httpx.AsyncClient, job_id: str) -> str:
        async with client.stream("GET", f"{base}/v1/jobs/{job_id}/events") as response:
            opened.append(job_id)
            text = "".join([chunk async for chunk in response.aiter_text()])
        return text.rpartition("event: ")[2].partition("\n")[0]

    async def run() -> tuple[Counter[str], int, int, float]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=200, limits=limits) as client:
            tasks = [
                asyncio.create_task((poll, listen)[n % 2](client, jobs[n // 2 % 10]["id"]))
                for n in range(1_000)
            ]
            await asyncio.sleep(0)
            await asyncio.to_thread(wait_until, lambda: len(opened) == 500, 120, "all streams")
            await asyncio.sleep(1)  # the polls were sent between them
            assert channel_count(pair.stack, jobs) == len(jobs)
            subscriptions = await asyncio.to_thread(subscriber_count, pair.stack)
            connections = await asyncio.to_thread(connection_count, pair.stack)
            began = time.monotonic()
            for job in jobs:
                await asyncio.to_thread(pair.two.client.cancel, job["id"])
            states = Counter(await asyncio.gather(*tasks))
            return states, subscriptions, connections, time.monotonic() - began

    states, subscriptions, connections, seconds = asyncio.run(run())
    print(
        f"1,000 waiters: {subscriptions} subscription connections "
        f"({subscribers} before), {connections} Redis connections in all, "
        f"all told within {seconds:.2f} s: {dict(states)}"
    )
    assert states == {"canceled": 1_000}
    assert subscriptions <= subscribers + 1, "one connection listens for all of the process"
    assert connections < 150


def test_a_stream_ends_quietly_when_redis_goes(tmp_path: Path) -> None:
    with running_redis(tmp_path / "redis") as redis:
        stack = Stack(redis.url, tmp_path, {"LANEFLEET_EVENT_HEARTBEAT_SECONDS": "0.3"})
        try:
            api = stack.api()
            job_id = api.client.submit("echo", 1)["id"]
            with Stream(api.url, job_id) as stream:
                event = stream.next()
                assert event
                assert event.name == "queued"
                redis.stop()
                assert stream.rest() == []
            assert api.process.alive
            assert "Traceback" not in api.process.output()
        finally:
            stack.close()


def subscriber_count(stack: Stack) -> int:
    with stack.redis as client:
        return sum(int(one["sub"]) > 0 for one in client.client_list())


def connection_count(stack: Stack) -> int:
    with stack.redis as client:
        return len(client.client_list())


def channel_count(stack: Stack, jobs: list[dict[str, Any]]) -> int:
    with stack.redis as client:
        found = client.pubsub_numsub(*(f"celery-task-meta-{job['id']}" for job in jobs))
    return sum(count for _, count in found)
