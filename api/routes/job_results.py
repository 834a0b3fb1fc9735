"""The outcomes of many jobs in one request: the counterpart of a bulk submit.

One line per job, sent as it is settled, so that a client that has submitted thousands need not
send thousands of requests.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
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
_RECORDS_AT_A_TIME = 64
"""Results may be large: read and written so many at a time, others are served between."""


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
    not settled in time comes last, as it stands.
    """
    body = await bodies.read(request, services.settings.max_body_bytes, bodies.any_type)
    wanted = _ids_of(await body.json(), services.settings.max_inputs)
    preferences = Preferences.of(body.asked.prefer, services.settings.max_wait_seconds)
    return _Lines(_lines(services, principal, wanted, preferences.wait_seconds or 0.0))


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


async def _lines(
    services: Services,
    principal: Principal,
    ids: list[str],
    seconds: float,
) -> AsyncGenerator[bytes, None]:
    left: dict[str, JobRecord] = {}
    for part in _parts(ids):
        records = await services.store.get_many(part)
        found = [one for one in records if one is not None and principal.owns(one.tenant)]
        known = {record.id for record in found}
        yield b"".join(_unknown(job_id) for job_id in part if job_id not in known)
        yield _views([record for record in found if record.state.terminal])
        left |= {record.id: record for record in found if not record.state.terminal}
    if left and seconds:
        with waiting_by_choice(principal.tenant, streams=True):
            async with aclosing(services.waiter.watch(list(left), seconds)) as watch:
                async for settled in watch:
                    await services.authenticator.recheck(principal)
                    for record in settled:
                        left.pop(record.id, None)
                    yield _views(settled)
        for part in _parts(list(left)):
            again = await services.store.get_many(part)
            yield _views([record for record in again if record is not None])
    else:
        yield _views(list(left.values()))


def _parts(ids: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(ids), _RECORDS_AT_A_TIME):
        yield ids[first : first + _RECORDS_AT_A_TIME]


def _views(records: list[JobRecord]) -> bytes:
    return b"".join(view_json(record) + b"\n" for record in records)


def _unknown(job_id: str) -> bytes:
    detail = f"there is no job {job_id!r}; results are kept for a limited time"
    problem = Problem(404, "unknown_job", detail).document()
    return orjson.dumps({"id": job_id, "error": problem}) + b"\n"
