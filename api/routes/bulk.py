"""Submits many jobs in one request: NDJSON in, NDJSON out, both streamed.

An invalid line gets an error of its own and does not affect the others. Reading does not wait for
the client to read, so a client that sends everything before it reads the response does not
deadlock, unless megabytes of the response are unread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import orjson
import structlog
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError
from redis.exceptions import RedisError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from api.cache.directives import ANYTHING, directives_of
from api.cache.result_cache import Hit
from api.dependencies import ServicesDep
from api.http.bodies import LARGE_BYTES, aside, check_fields, hold_bytes, release_bytes
from api.http.problems import Problem, from_fleet_error, problem_for
from api.http.request_errors import RequestError
from api.jobs.request import JobRequest, invalid
from api.services import Services
from api.tenants.auth import Principal
from api.tenants.dependencies import SubmitDep
from common.errors import FleetError, InputStoreUnavailable, Refused
from common.inputs.strict_json import loads_strict
from common.jobs.job import Job

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_NDJSON = "application/x-ndjson"
_JOBS_PER_CALL = 250
_BYTES_PER_CALL = 4 * 1024 * 1024
_LINES_AT_A_TIME, _REFUSALS_AT_A_TIME, _TURNS = 100, 100, 4
"""After so many lines, or refusals, others are served, for so many turns of the loop: a single job
takes about six from its request to Redis, each of which would wait for as many lines.
"""
_MAX_IN_PROGRESS = 2
"""Most concurrent calls."""
_MOST_UNREAD_BYTES = 32 * 1024 * 1024
"""Unread response bytes above which reading stops: the answers of 600,000 jobs."""
_VALUE_BYTES = 70
"""Memory of a parsed value, which may be one byte of JSON."""

_OPENERS = b",[{"
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "description": "One job per line, each as for `POST /v1/jobs`.",
        "content": {_NDJSON: {"schema": {"type": "string"}}},
    }
}


class _Duplex(Response):
    """Sends lines as they are ready, while the request's body is still being read."""

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        super().__init__(status_code=200, media_type=_NDJSON)
        self._lines = lines
        del self.headers["content-length"]

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self._lines:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@router.post(
    "/bulk",
    response_class=Response,
    openapi_extra=_BODY,
    responses={
        200: {"description": "One line per job: its id, or its error.", "content": {_NDJSON: {}}}
    },
)
async def submit_bulk(request: Request, services: ServicesDep, principal: SubmitDep) -> Response:
    """Queue many jobs. Each answer line has `line`, counted from 1, and `id` or `error`."""
    return _Duplex(_answers(request, services, principal))


async def _answers(
    request: Request, services: Services, principal: Principal
) -> AsyncIterator[bytes]:
    unread = _Unread()

    async def take_all() -> None:
        try:
            await _BulkIntake(services, unread, principal).run(request)
        except RequestError as exc:  # its key was revoked; what is not queued yet is lost
            unread.put(orjson.dumps({"line": 0, "error": from_fleet_error(exc).document()}) + b"\n")
        except ClientDisconnect:
            log.debug("bulk_client_left")  # what it had sent by then is queued
        finally:
            unread.put(b"")

    task = asyncio.create_task(take_all())
    try:
        while chunk := await unread.get():
            yield chunk
        await task
    finally:
        task.cancel()


class _Unread:
    """Response chunks that the client has not read yet; an empty one is the end."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._bytes = 0
        self._read = asyncio.Event()

    def put(self, chunk: bytes) -> None:
        """Append a chunk."""
        self._bytes += len(chunk)
        self._queue.put_nowait(chunk)

    async def get(self) -> bytes:
        """Wait for the next chunk."""
        chunk = await self._queue.get()
        self._bytes -= len(chunk)
        self._read.set()
        return chunk

    async def room(self) -> None:
        """Wait until the unread chunks are below the limit."""
        while self._bytes > _MOST_UNREAD_BYTES:
            self._read.clear()
            await self._read.wait()


class _BulkIntake:
    """Splits the body into lines, publishes them by the hundred, answers each.

    While some are sent to Redis the next are read and checked; with the maximum number of calls
    in progress, reading waits for the oldest, so memory stays bounded. Because of that wait it
    uses no Coalescer, whose callers each wait for an answer of their own.
    """

    def __init__(self, services: Services, unread: _Unread, principal: Principal) -> None:
        self._services = services
        self._principal = principal
        self._unread = unread
        self._line = self._refusals = 0
        self._skips = False
        """Whether what comes is the rest of a line that was refused."""
        self._directives = ANYTHING
        self._jobs: list[tuple[int, Job]] = []
        self._bytes = 0
        self._calls: deque[asyncio.Task[None]] = deque()

    async def run(self, request: Request) -> None:
        """Read until the body ends."""
        self._directives = directives_of(request.headers.get("cache-control"))
        try:
            await self._read(request)
            await self._start_call()
        finally:
            await asyncio.gather(*self._calls)

    async def _read(self, request: Request) -> None:
        limit = self._services.settings.max_body_bytes
        rest = bytearray()
        held = 0
        async for chunk in request.stream():
            if self._skips:  # a line that was refused before its end
                _, ended, chunk = chunk.partition(b"\n")
                self._skips = not ended
            rest += chunk
            if b"\n" in chunk:
                *lines, last = await aside(len(rest), partial(_split, rest))
                rest = bytearray(last)
                release_bytes(held)
                held = 0
                await self._take_all(lines, limit)
            elif self._may_hold(len(chunk), self._line + 1):
                held += len(chunk)
            else:
                self._skips = True
            if len(rest) > limit and not self._skips:
                self._skips = True
                self._answer(self._line + 1, _too_long(limit))
            if self._skips and rest:
                self._line += 1
                rest = bytearray()
                release_bytes(held)
                held = 0
        await self._take(bytes(rest), limit)

    async def _take_all(self, lines: list[bytes], limit: int) -> None:
        for line in lines:
            await self._take(line, limit)
            if self._refusals >= _REFUSALS_AT_A_TIME or self._line % _LINES_AT_A_TIME == 0:
                self._refusals = 0
                for _ in range(_TURNS):  # nothing else of a line that is refused waits
                    await asyncio.sleep(0)
                await self._unread.room()
            if len(self._jobs) >= _JOBS_PER_CALL or self._bytes >= _BYTES_PER_CALL:
                await self._start_call()
        await self._unread.room()

    def _may_hold(self, size: int, line: int) -> bool:
        """Whether there is memory for this part of the line; refuses the line if not."""
        try:
            hold_bytes(size)
        except Problem as problem:
            self._answer(line, problem)
            return False
        return True

    async def _start_call(self) -> None:
        """Send the lines read so far; at the maximum of calls in progress, await the oldest."""
        if not self._jobs:
            return
        if len(self._calls) == _MAX_IN_PROGRESS:
            await self._calls.popleft()
        await self._services.authenticator.recheck(self._principal)
        call = self._call(self._jobs, self._bytes)
        self._jobs, self._bytes = [], 0
        self._calls.append(asyncio.create_task(call))

    async def _call(self, taken: list[tuple[int, Job]], held: int) -> None:
        try:
            await self._publish(taken)
        finally:
            release_bytes(held)

    async def _room_for(self, size: int) -> bool:
        """Reserve memory for a job; where there is none, wait for this request's calls first."""
        try:
            hold_bytes(size)
        except Problem:
            await self._start_call()
            while self._calls:
                await self._calls.popleft()
            return self._may_hold(size, self._line)
        return True

    async def _take(self, line: bytes, limit: int) -> None:
        self._line += 1
        if not line.strip():
            return
        if len(line) > limit:
            self._answer(self._line, _too_long(limit))
            return
        large = len(line) > LARGE_BYTES
        size = await asyncio.to_thread(_memory_of, line) if large else _memory_of(line)
        if not await self._room_for(size):
            return
        try:
            job = await asyncio.to_thread(self._job_of, line) if large else self._job_of(line)
            self._jobs.append((self._line, job))
            self._bytes += size
            size = 0
        except ValidationError as exc:
            problem = from_fleet_error(invalid(exc))
            self._refuse(problem.status, problem.code, problem.detail)
        except Problem as exc:
            self._answer(self._line, exc)
        except ValueError as exc:
            self._refuse(400, "invalid_json", f"the line is not valid JSON ({exc})")
        except FleetError as exc:
            problem = from_fleet_error(exc)
            self._refuse(problem.status, problem.code, problem.detail)
        finally:
            release_bytes(size)

    def _job_of(self, line: bytes) -> Job:
        document = loads_strict(line)
        check_fields(document)
        request = JobRequest.model_validate(document, strict=True)
        return self._services.submission.prepare(
            request, self._principal, len(line), self._directives
        )

    async def _publish(self, taken: list[tuple[int, Job]]) -> None:
        try:
            outcomes = await self._services.submission.publish_all([job for _, job in taken])
        except InputStoreUnavailable as exc:
            for line, _ in taken:
                self._answer(line, from_fleet_error(exc))
            return
        except RedisError as exc:
            problem = problem_for(exc)
            for line, _ in taken:
                self._answer(line, problem)
            return
        accepted = []
        for (line, job), outcome in zip(taken, outcomes, strict=True):
            if isinstance(outcome, Refused):
                self._answer(line, from_fleet_error(outcome))
            elif isinstance(outcome, Hit):
                accepted.append(f'{{"line":{line},"id":"{job.id}","cached":true}}\n')
            else:
                accepted.append(f'{{"line":{line},"id":"{job.id}"}}\n')
        if accepted:  # an empty chunk is the end
            self._unread.put("".join(accepted).encode())

    def _refuse(self, status: int, code: str, detail: str) -> None:
        self._answer(self._line, Problem(status, code, detail))

    def _answer(self, line: int, problem: Problem) -> None:
        self._refusals += 1
        document = problem.document()
        self._unread.put(orjson.dumps({"line": line, "error": document}) + b"\n")


def _too_long(limit: int) -> Problem:
    return Problem(413, "body_too_large", f"the line is longer than {limit} bytes")


def _split(body: bytearray) -> list[bytes]:
    return bytes(body).split(b"\n")


def _memory_of(line: bytes) -> int:
    values = len(line) - len(line.translate(None, _OPENERS))  # cheaper than three counts
    return len(line) + _VALUE_BYTES * values
