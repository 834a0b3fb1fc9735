"""What a bulk submit holds in memory, whatever its client sends and does not read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import orjson

from api.http.request_context import CURRENT, BodyBudget, RequestContext
from api.http.shares import Shares
from api.routes.bulk import submit_bulk
from common.jobs.job import Job


class Submission:
    """Takes jobs, and lets their trips come back when told."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.calls: list[int] = []

    def prepare(self, request: Any, _principal: Any, _sent: int, _wish: Any) -> Job:
        return Job(request.model, request.input)

    async def publish_all(self, jobs: Sequence[Job]) -> list[int]:
        self.calls.append(len(jobs))
        await self.gate.wait()
        return [0] * len(jobs)


class Body:
    """A request whose chunks are made as they are read; None ends it."""

    def __init__(self, *chunks: bytes, endless: bytes = b"") -> None:
        self.headers: dict[str, str] = {}
        self.read = 0
        self._chunks = list(chunks)
        self._endless = endless

    async def stream(self) -> Any:
        while self._chunks or self._endless:
            await asyncio.sleep(0)
            self.read += 1
            yield self._chunks.pop(0) if self._chunks else self._endless


async def answer(
    body: Body, submission: Submission, sent: list[bytes], reads: asyncio.Event
) -> None:
    """Run the route for a client that reads while `reads` is set."""
    settings = SimpleNamespace(max_body_bytes=1_000_000)

    async def recheck(_principal: object) -> None: ...

    authenticator = SimpleNamespace(recheck=recheck)
    services: Any = SimpleNamespace(
        settings=settings, submission=submission, authenticator=authenticator
    )
    response = await submit_bulk(body, services, object())  # type: ignore[arg-type]

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await reads.wait()
            sent.append(message["body"])

    await response({}, None, send)  # type: ignore[arg-type]


def request_of(budget: BodyBudget) -> RequestContext:
    request = RequestContext(b"id", "", budget, Shares(1, 1.0))
    CURRENT.set(request)
    return request


async def turns(count: int) -> None:
    """So many turns of the loop, in which nothing here waits for anything outside."""
    for _ in range(count):
        await asyncio.sleep(0)


async def at_rest(value: Callable[[], int]) -> None:
    """Until a value has not changed for 500 turns of the loop."""
    before = None
    while before != value():
        before = value()
        await turns(500)


def test_a_client_that_reads_no_answers_is_not_read_from_without_end() -> None:
    async def main() -> None:
        request_of(BodyBudget(10**9))
        body = Body(endless=b"x\n" * 10_000)  # 20 KB, and 2 MB of answers
        reads = asyncio.Event()
        task = asyncio.create_task(answer(body, Submission(), [], reads))
        await at_rest(lambda: body.read)
        assert 0 < body.read < 40, "it waits for the client"
        before = body.read
        reads.set()
        while body.read == before:
            await turns(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_a_line_over_the_limit_costs_no_other_its_answer() -> None:
    fine, part = b'{"model":"m","input":1}\n', b"x" * 600_000
    bodies = [
        (Body(fine, part, part, part, b"x\n" + fine), 10**9, 413),
        (Body(fine + part, part, part, b"x", b"\n" + fine), 10**9, 413),
        (Body(fine, part, part, b"x", b"\n", fine), 700_000, 503),
        (Body(fine, b"x" * 1_700_000, b"x\n" + fine), 10**9, 413),
    ]

    async def main(body: Body, memory: int) -> list[dict[str, Any]]:
        request = request_of(BodyBudget(memory))
        submission, sent, reads = Submission(), [], asyncio.Event()  # type: ignore[var-annotated]
        reads.set()
        submission.gate.set()
        await answer(body, submission, sent, reads)
        assert request.held_bytes == 0
        return [orjson.loads(one) for one in b"".join(sent).splitlines()]

    for body, memory, status in bodies:
        found = {one["line"]: one for one in asyncio.run(main(body, memory))}
        assert found.keys() == {1, 2, 3}
        assert found[2]["error"]["status"] == status
        assert "id" in found[1]
        assert "id" in found[3]


def test_jobs_that_wait_for_redis_count_as_what_they_take_in_memory() -> None:
    line = b'{"model":"m","input":[' + b",".join([b"{}"] * 1_000) + b"]}\n"

    async def main() -> tuple[list[dict[str, Any]], BodyBudget, Submission]:
        budget = BodyBudget(1_000_000)
        request = request_of(budget)
        submission, sent, reads = Submission(), [], asyncio.Event()  # type: ignore[var-annotated]
        reads.set()
        task = asyncio.create_task(answer(Body(*[line] * 20), submission, sent, reads))
        await at_rest(lambda: len(submission.calls) + request.held_bytes)
        assert submission.calls == [6], "6 jobs of 143 KB; the seventh waits for their call"
        assert request.held_bytes == 1_000_000 - budget.left > 0
        submission.gate.set()
        await asyncio.wait_for(task, 5)
        assert request.held_bytes == 0
        return [orjson.loads(one) for one in b"".join(sent).splitlines()], budget, submission

    answers, budget, submission = asyncio.run(main())
    assert sorted(one["line"] for one in answers) == list(range(1, 21))
    assert all("id" in one for one in answers)
    assert sum(submission.calls) == 20
    assert budget.left == 1_000_000
