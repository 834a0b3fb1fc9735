"""One trace leads from a request over the queue into the batch, as a receiver of OTLP sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from celery import Celery

from common.redis.embedded_server import RedisServer
from tests.support.lanes import LANE, RecordedLane
from tests.support.otlp import Received, Receiver, receiving
from tests.support.stack import ApiProcess, Stack, wait_until

SERVER, PRODUCER, CONSUMER = 2, 4, 5
UPSTREAM = "00f067aa0ba902b7"


class Traced:
    """An API and a worker that send their spans to a receiver."""

    def __init__(self, stack: Stack, api: ApiProcess, receiver: Receiver) -> None:
        self.stack, self.api, self.receiver = stack, api, receiver

    def post(self, path: str, body: object, trace: str, flags: str = "01") -> httpx.Response:
        """A request of an upstream service, below its span in this trace."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "application/x-ndjson" if isinstance(body, bytes) else "application/json"
        headers = {"traceparent": f"00-{trace}-{UPSTREAM}-{flags}", "content-type": kind}
        return httpx.post(f"{self.api.url}{path}", content=content, headers=headers, timeout=30)

    def spans(self, name: str, trace: str, links: int = 0) -> list[Received]:
        """The spans of this name in a trace, once they have so many links."""

        def found() -> list[Received]:
            spans = self.receiver.named(name, trace)
            return spans if sum(len(one.links) for one in spans) >= links else []

        return wait_until(found, 30, f"spans named {name}")


@pytest.fixture(scope="module")
def traced(
    embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Traced]:
    stack = Stack(embedded_redis.url, tmp_path_factory.mktemp("traces"))
    stack.redis.flushall()
    with receiving() as receiver:
        stack.environment.update(receiver.environment())
        RecordedLane.on(stack, max_batch=200)
        api = stack.api(LANE)
        stack.worker(LANE)
        yield Traced(stack, api, receiver)
        stack.close()
    stack.redis.flushall()


def test_one_trace_leads_from_the_request_over_the_queue_into_the_batch(traced: Traced) -> None:
    trace = "a" * 31 + "1"
    answer = traced.post("/v1/jobs", {"model": LANE, "input": "x"}, trace)
    assert answer.status_code == 202
    job_id = answer.json()["id"]
    (process,) = traced.spans(f"process {LANE}", trace, links=1)
    (send,) = traced.spans(f"send {LANE}", trace)
    (server,) = traced.spans("POST /v1/jobs", trace)
    assert server.parent == UPSTREAM
    assert send.parent == server.id
    assert process.parent == send.id
    assert (server.kind, send.kind, process.kind) == (SERVER, PRODUCER, CONSUMER)
    assert (server.service, process.service) == ("lanefleet-api", "lanefleet-worker")
    assert answer.headers["traceparent"] == f"00-{trace}-{server.id}-01"
    assert server.attributes["http.route"] == "/v1/jobs"
    assert server.attributes["http.response.status_code"] == 202
    for span, operation in ((send, "send"), (process, "process")):
        assert span.attributes["messaging.system"] == "celery"
        assert span.attributes["messaging.operation.name"] == operation
        assert span.attributes["messaging.operation.type"] == operation
        assert span.attributes["messaging.destination.name"] == LANE
        assert span.attributes["messaging.message.id"] == job_id
    assert process.attributes["messaging.batch.message_count"] == 1
    assert process.links == [
        {
            "trace": trace,
            "span": send.id,
            "messaging.message.id": job_id,
            "lanefleet.outcome": "succeeded",
        }
    ]


def test_a_batch_has_a_link_for_each_of_its_jobs(traced: Traced) -> None:
    trace, count = "a" * 31 + "2", 150
    lines = [json.dumps({"model": LANE, "input": f"n{n}"}).encode() for n in range(count)]
    answer = traced.post("/v1/jobs/bulk", b"\n".join(lines), trace)
    ids = {json.loads(line)["id"] for line in answer.text.splitlines()}
    assert len(ids) == count

    def sums() -> list[Received]:
        spans = traced.receiver.named(f"process {LANE}", trace)
        jobs = sum(one.attributes["messaging.batch.message_count"] for one in spans)
        return spans if jobs == count else []

    batches = wait_until(sums, 30, "all batches")
    sends = {one.id: one for one in traced.spans(f"send {LANE}", trace)}
    assert sum(one.attributes["messaging.batch.message_count"] for one in sends.values()) == count
    linked: set[str] = set()
    for batch in batches:
        size = batch.attributes["messaging.batch.message_count"]
        assert len(batch.links) == min(size, 128)
        assert {one["span"] for one in batch.links} <= sends.keys()
        linked |= {one["messaging.message.id"] for one in batch.links}
    assert linked <= ids
    cut = sum(max(0, one.attributes["messaging.batch.message_count"] - 128) for one in batches)
    assert len(linked) == count - cut


def test_what_is_not_sampled_makes_no_span_and_goes_on_as_it_is(traced: Traced) -> None:
    trace, later = "a" * 31 + "3", "a" * 31 + "4"
    answer = traced.post("/v1/jobs", {"model": LANE, "input": "quiet"}, trace, flags="00")
    assert answer.headers["traceparent"] == f"00-{trace}-{UPSTREAM}-00"
    wait_until(lambda: traced.stack.states([answer.json()["id"]]) == {"succeeded": 1}, 30, "it")
    traced.post("/v1/jobs", {"model": LANE, "input": "loud"}, later)
    traced.spans(f"process {LANE}", later, links=1)
    traced.spans("POST /v1/jobs", later)
    assert not [one for one in traced.receiver.spans if one.trace == trace]


def test_a_failed_job_marks_its_spans(traced: Traced) -> None:
    trace = "a" * 31 + "5"
    bad = {"model": LANE, "input": "bad", "params": {"bad": True}}
    traced.post("/v1/jobs", bad, trace)
    (process,) = traced.spans(f"process {LANE}", trace, links=1)
    assert process.error
    assert process.attributes["error.type"] == "decode_failed"
    assert process.links[0]["lanefleet.outcome"] == "failed"


def test_a_celery_client_s_own_trace_goes_on_in_the_batch(traced: Traced) -> None:
    trace = "a" * 31 + "6"
    plain = Celery("theirs", broker=traced.stack.redis_url, backend=traced.stack.redis_url)
    sent = plain.send_task(
        "infer",
        kwargs={"model": LANE, "input": "theirs"},
        queue=LANE,
        headers={"traceparent": f"00-{trace}-{UPSTREAM}-01"},
    )
    assert sent.get(timeout=30) == "theirs"
    (process,) = traced.spans(f"process {LANE}", trace, links=1)
    assert process.parent == UPSTREAM
    assert process.links[0]["messaging.message.id"] == sent.id
