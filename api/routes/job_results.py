"""The outcomes of many jobs in one request: the counterpart of a bulk submit.

One line per job, sent as it is settled, so that a client that has submitted thousands need not
send thousands of requests. Results that are there are sent as they are stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    ValidationError,
)
from starlette.types import Send

from api.dependencies import ServicesDep
from api.http import bodies
from api.http.preferences import Preferences
from api.http.problems import Problem, responses
from api.http.request_context import waiting_by_choice
from api.jobs.request import invalid
from api.jobs.stored_views import StoredViews, minimal_json
from api.jobs.views import view_json
from api.routes.job_lookup import JOB_ID_MAX_LENGTH
from api.services import Services
from api.tenants.auth import Principal
from api.tenants.dependencies import ReadDep
from common.jobs.record import JobRecord

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_NDJSON = "application/x-ndjson"


_Id = Annotated[str, StringConstraints(min_length=1, max_length=JOB_ID_MAX_LENGTH)]
_COPIES = 8
"""How often an id may be sent, on average."""
_RECORDS_AT_A_TIME, _SMALL_AT_A_TIME = 64, 256
"""Results may be large: read and written so many at a time, others are served between."""
_TOLD_JOBS = 64
"""Each job whose end is told costs 30 us, for a subscription of its own; more are looked at."""
_LOOK_SECONDS, _LOOKS_AT_ALL = 0.1, 20
"""How often they are looked at, and at which look at all of them."""
_SMALL_BYTES = 128 * 1024
"""Of so many results, if they are so small that more are read at a time."""


class Wanted(BaseModel):
    """Which jobs."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[_Id], FailFast()] = Field(
        min_length=1, description="The jobs' ids, at most as many as the fleet's `max_inputs`."
    )


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": Wanted.model_json_schema()}},
    }
}


class _Lines(StreamingResponse):
    """NDJSON; the generator is closed, and its watch ended, with the response."""

    media_type = _NDJSON

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self.body_iterator):  # type: ignore[type-var]  # ours is a generator
            await super().stream_response(send)


@router.post(
    "/results",
    response_class=Response,
    openapi_extra=_BODY,
    responses={
        200: {"description": "One line per job, each once.", "content": {_NDJSON: {}}},
        **responses(
            s400="Not JSON.", s413="The body is too large.", s422="No list of ids, or too long."
        ),
    },
)
async def collect_results(request: Request, services: ServicesDep, principal: ReadDep) -> Response:
    """Look at many jobs. With `Prefer: wait=n`, each line comes when its job is settled.

    A line is the job as `GET /v1/jobs/{id}` shows it, or has its `id` and an `error`. What is
    not settled in time comes last, as it stands. With `Prefer: return=minimal` a line has `id`,
    `state`, and `result` or `error` alone, which costs both sides less.
    """
    body = await bodies.read(request, services.settings.max_body_bytes, bodies.any_type)
    wanted = _ids_of(await body.json(), services.settings.max_inputs)
    preferences = Preferences.of(body.asked.prefer, services.settings.max_wait_seconds)
    lines = _Looks(services, principal, preferences.minimal)
    headers = {"Preference-Applied": "return=minimal"} if preferences.minimal else None
    return _Lines(lines.of(wanted, preferences.wait_seconds or 0.0), headers=headers)


def _ids_of(document: Any, most: int) -> list[str]:
    sent = document.get("ids") if isinstance(document, dict) else None
    if isinstance(sent, list) and len(sent) > _COPIES * most:  # not to look at each of them
        raise _too_many(len(sent), most)
    try:
        ids = dict.fromkeys(Wanted.model_validate(document, strict=True).ids)
    except ValidationError as exc:
        raise invalid(exc) from exc
    if len(ids) > most:
        raise _too_many(len(ids), most)
    return list(ids)


def _too_many(count: int, most: int) -> Problem:
    return Problem(422, "too_many_ids", f"`ids`: at most {most} at a time, not {count}")


class _Looks:
    """The lines of one request."""

    def __init__(self, services: Services, principal: Principal, minimal: bool) -> None:
        self._services = services
        self._principal = principal
        self._stored = StoredViews(principal.owns, minimal=minimal)
        self._view = minimal_json if minimal else view_json
        self._left: dict[str, JobRecord] = {}

    async def of(self, ids: list[str], seconds: float) -> AsyncGenerator[bytes, None]:
        """What is settled, then what gets settled, then what does not."""
        size = _RECORDS_AT_A_TIME
        while ids:
            part, ids = ids[:size], ids[size:]
            lines = await self._look(part)
            yield lines
            small = len(lines) <= _SMALL_BYTES
            size = _SMALL_AT_A_TIME if small else _RECORDS_AT_A_TIME
        if not (self._left and seconds):
            yield self._views(self._left.values())
            return
        with waiting_by_choice(self._principal.tenant, streams=True):
            async with aclosing(self._settled(seconds)) as settled:
                async for lines in settled:
                    await self._services.authenticator.recheck(self._principal)
                    yield lines
        open_ids = list(self._left)
        for first in range(0, len(open_ids), _RECORDS_AT_A_TIME):
            part = open_ids[first : first + _RECORDS_AT_A_TIME]
            yield self._views(filter(None, await self._services.store.get_many(part)))

    async def _settled(self, seconds: float) -> AsyncGenerator[bytes, None]:
        """Lines as jobs are settled: of many by looking at them, then of few by being told."""
        loop, waiter = asyncio.get_running_loop(), self._services.waiter
        ends, looks = loop.time() + seconds, 0
        while len(self._left) > _TOLD_JOBS and loop.time() < ends and not waiter.draining:
            await asyncio.sleep(min(_LOOK_SECONDS, ends - loop.time()))
            looks += 1
            ids = list(self._left)
            for first in range(0, len(ids), _RECORDS_AT_A_TIME):
                lines = await self._look_again(ids[first : first + _RECORDS_AT_A_TIME])
                if lines:
                    yield lines
                elif looks % _LOOKS_AT_ALL:  # they are settled about in their order
                    break
        async with aclosing(waiter.watch(list(self._left), max(0.0, ends - loop.time()))) as watch:
            async for settled in watch:
                for record in settled:
                    self._left.pop(record.id, None)
                yield self._views(settled)

    async def _look(self, ids: list[str]) -> bytes:
        """The lines of those that are settled or unknown; the others are left."""
        lines, others, unsettled = await self._stored_lines(ids)
        others += unsettled
        records = await self._services.store.get_many(others)
        for job_id, record in zip(others, records, strict=True):
            if record is None or not self._principal.owns(record.tenant):
                lines.append(_unknown(job_id))
            elif record.state.terminal:
                lines.append(self._views([record]))
            else:
                self._left[job_id] = record
        return b"".join(lines)

    async def _look_again(self, ids: list[str]) -> bytes:
        """The lines of those that are settled by now."""
        lines, others, unsettled = await self._stored_lines(ids)
        for job_id in set(ids).difference(unsettled):
            del self._left[job_id]
        records = await self._services.store.get_many(others)
        return b"".join(lines) + self._views(filter(None, records))

    async def _stored_lines(self, ids: list[str]) -> tuple[list[bytes], list[str], list[str]]:
        """Lines from stored results; which jobs take a record, and which are not settled."""
        stored = await self._services.store.stored_results(ids)
        lines, others, unsettled = [], [], []
        for job_id, meta in zip(ids, stored, strict=True):
            if not meta:
                unsettled.append(job_id)
            elif line := self._stored.line(job_id, meta):
                lines.append(line)
            else:
                others.append(job_id)
        return lines, others, unsettled

    def _views(self, records: Iterable[JobRecord]) -> bytes:
        return b"".join(self._view(record) + b"\n" for record in records)


def _unknown(job_id: str) -> bytes:
    detail = f"there is no job {job_id!r}; results are kept for a limited time"
    problem = Problem(404, "unknown_job", detail).document()
    return orjson.dumps({"id": job_id, "error": problem}) + b"\n"
