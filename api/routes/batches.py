"""`/v1/batches` in OpenAI's shape, for any model of the catalog."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError

from api.batches.batches import Batches
from api.batches.shapes import BatchList, BatchObject, BatchRequest, page_of
from api.dependencies import ServicesDep
from api.http import bodies
from api.http.bodies import is_json
from api.http.problems import Problem
from api.http.request_errors import InvalidRequest
from api.routes.openai_errors import OpenAIRoute, openai_errors
from api.services import Services
from api.tenants.auth import Principal
from api.tenants.dependencies import ReadDep, SubmitDep
from common.batches.records import BatchRecord, BatchStatus

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=OpenAIRoute)

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": BatchRequest.model_json_schema()}},
    }
}


@router.post(
    "",
    response_model=BatchObject,
    openapi_extra=_BODY,
    responses=openai_errors(
        s400="Not JSON, or a field is missing or wrong.",
        s415="Not JSON by its content type.",
        s429="Too many unfinished batches.",
        s503="The queue cannot be reached.",
    ),
)
async def create_batch(
    request: Request, services: ServicesDep, principal: SubmitDep
) -> BatchObject:
    """Run the requests of an uploaded file; the results are a file as well."""
    most = services.settings.max_body_bytes
    body = await bodies.read(request, most, is_json, instead="application/json")
    asked = _read(await body.json())
    record = await _batches(services).create(asked, principal)
    return _view(record)


@router.get("", response_model=BatchList, responses=openai_errors(s400="A parameter is wrong."))
async def list_batches(
    services: ServicesDep,
    principal: ReadDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64, description="The last id before.")] = None,
) -> BatchList:
    """Your batches, newest first."""
    batches = _batches(services)
    ids = await batches.list_ids(principal.tenant)
    page, more = await page_of(ids, after, limit, batches.get_many)
    data = [_view(one) for one in page]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return BatchList(data=data, first_id=first, last_id=last, has_more=more)


@router.get(
    "/{batch_id}", response_model=BatchObject, responses=openai_errors(s404="No such batch.")
)
async def get_batch(batch_id: str, services: ServicesDep, principal: ReadDep) -> BatchObject:
    """One batch: where it stands, how far it is, and its files."""
    return _view(await _known(services, batch_id, principal))


@router.post(
    "/{batch_id}/cancel",
    response_model=BatchObject,
    responses=openai_errors(s404="No such batch.", s409="It has ended."),
)
async def cancel_batch(batch_id: str, services: ServicesDep, principal: SubmitDep) -> BatchObject:
    """End a batch: what is done is in its files, the rest is canceled. May be repeated."""
    record = await _known(services, batch_id, principal)
    moved = await _batches(services).cancel(record)
    record = await _known(services, batch_id, principal)
    if not moved and record.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
        detail = f"the batch is {record.status.value} and cannot be canceled any more"
        raise Problem(409, "batch_not_cancelable", detail)
    return _view(record)


def _read(document: Any) -> BatchRequest:
    try:
        return BatchRequest.model_validate(document, strict=True)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)
        field = str(errors[0]["loc"][0]) if errors[0]["loc"] else None
        raise InvalidRequest(str(InvalidRequest.of(errors)), param=field) from exc


def _batches(services: Services) -> Batches:
    if services.batches is None:
        detail = (
            "this fleet runs no batches, as it keeps no files: set LANEFLEET_FILES_URL, or "
            "LANEFLEET_BLOB_URL, to a folder or bucket that the API and the courier share"
        )
        raise Problem(501, "files_not_kept", detail)
    return services.batches


async def _known(services: Services, batch_id: str, principal: Principal) -> BatchRecord:
    record = await _batches(services).get(batch_id, principal.tenant)
    if record is None:
        detail = f"there is no batch {batch_id[:80]!r}"
        raise Problem(404, "unknown_batch", detail, param="batch_id")
    return record


def _view(record: BatchRecord) -> BatchObject:
    return BatchObject.of(record, time.time())
