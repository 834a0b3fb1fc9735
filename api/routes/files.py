"""`/v1/files` in OpenAI's shape: uploaded, listed, downloaded and deleted, streamed both ways."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from redis.exceptions import RedisError

from api.batches.ranges import Span, UnsatisfiableError, span_of
from api.batches.shapes import FileDeleted, FileList, FileObject, page_of
from api.batches.upload import Upload, declared_bytes, receive_file
from api.dependencies import ServicesDep
from api.http.problems import Problem
from api.http.request_errors import InvalidRequest
from api.routes.openai_errors import OpenAIRoute, openai_errors
from api.services import Services
from api.tenants.auth import Principal
from api.tenants.dependencies import ReadDep, SubmitDep
from common.batches.files import Files, FileStoreFull
from common.batches.records import FileRecord, new_file_id
from common.errors import InputStoreUnavailable

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=OpenAIRoute)

_PURPOSES = ("batch",)
_LEAST_SECONDS, _MOST_SECONDS = 3_600, 2_592_000
_CHUNK_BYTES = 256 * 1024
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(_PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": _LEAST_SECONDS,
                            "maximum": _MOST_SECONDS,
                        },
                    },
                }
            }
        },
    }
}
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file's bytes.", "content": {"application/octet-stream": {}}}
}


@router.post(
    "",
    response_model=FileObject,
    openapi_extra=_BODY,
    responses=openai_errors(
        s400="No form, or a field is missing or wrong.",
        s413="The file is too large, or the tenant keeps too much.",
        s415="Not multipart/form-data.",
        s503="The file cannot be stored now.",
    ),
)
async def create_file(request: Request, services: ServicesDep, principal: SubmitDep) -> FileObject:
    """Upload a file for a batch: one JSON object a line, as in OpenAI's format."""
    files = _files(services)
    file_id = new_file_id()
    most = services.settings
    bounds = most.tenant_files, most.tenant_file_bytes
    try:
        await files.require_room(principal.tenant, declared_bytes(request), *bounds)
        upload = await receive_file(request, files, file_id, most.file_max_bytes)
        now_ms = await files.now_ms()
        record = _record_of(upload, file_id, principal, now_ms, most.file_ttl_seconds)
        await files.add(record, *bounds)
    except FileStoreFull as exc:
        await _forget(files, file_id)
        raise Problem(413, exc.code, str(exc)) from exc
    except BaseException:
        await _forget(files, file_id)
        raise
    return FileObject.of(record)


@router.get("", response_model=FileList, responses=openai_errors(s400="A parameter is wrong."))
async def list_files(
    services: ServicesDep,
    principal: ReadDep,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(max_length=64, description="The last id before.")] = None,
) -> FileList:
    """Your files, newest first, uploaded ones and the results of batches."""
    files = _files(services)
    ids = await files.list_ids(principal.tenant, oldest_first=order == "asc")

    async def read(some: Sequence[str]) -> list[FileRecord]:
        kept = await files.get_many(some, principal.tenant)
        return [one for one in kept if purpose in (None, one.purpose)]

    page, more = await page_of(ids, after, limit, read)
    data = [FileObject.of(one) for one in page]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return FileList(data=data, first_id=first, last_id=last, has_more=more)


@router.get("/{file_id}", response_model=FileObject, responses=openai_errors(s404="No such file."))
async def get_file(file_id: str, services: ServicesDep, principal: ReadDep) -> FileObject:
    """One file's name, size and times."""
    return FileObject.of(await _known(_files(services), file_id, principal))


@router.get(
    "/{file_id}/content",
    response_class=Response,
    responses={
        **_CONTENT,
        **openai_errors(s404="No such file.", s416="It has none of the bytes asked for."),
    },
)
async def get_file_content(
    file_id: str, request: Request, services: ServicesDep, principal: ReadDep
) -> Response:
    """The file's bytes, as an attachment; with `Range`, a part of them."""
    files = _files(services)
    record = await _known(files, file_id, principal)
    etag = f'"{record.id}"'
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(record.filename, safe='')}",
        "Accept-Ranges": "bytes",
        "ETag": etag,  # a file never changes
    }
    asked = request.headers
    try:
        span = span_of(asked.get("range"), asked.get("if-range"), etag, record.bytes)
    except UnsatisfiableError:
        detail = f"the file has {record.bytes} bytes, and none of those that `Range` asks for"
        found = {"Content-Range": f"bytes */{record.bytes}"}
        raise Problem(416, "range_not_satisfiable", detail, headers=found) from None
    first, end = span or Span(0, record.bytes)
    if span is not None:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{record.bytes}"
    headers["Content-Length"] = str(end - first)
    pieces = _pieces(files, record.id, first, end)
    piece = await anext(pieces, b"")  # while it can still be said that it cannot be read
    return StreamingResponse(
        _all_of(piece, pieces),
        status_code=200 if span is None else 206,
        media_type="application/octet-stream",
        headers=headers,
    )


@router.delete(
    "/{file_id}",
    response_model=FileDeleted,
    responses=openai_errors(s404="No such file.", s409="An unfinished batch reads it."),
)
async def delete_file(file_id: str, services: ServicesDep, principal: SubmitDep) -> FileDeleted:
    """Delete a file that no unfinished batch reads."""
    files = _files(services)
    record = await _known(files, file_id, principal)
    batches = services.batches
    used_by = await batches.uses(record) if batches is not None else None
    if used_by is not None:
        detail = f"the batch {used_by} reads this file; cancel it first, or wait until it is done"
        raise Problem(409, "file_in_use", detail)
    await files.delete(record)
    return FileDeleted(id=record.id)


def _files(services: Services) -> Files:
    if services.batches is None:
        detail = (
            "this fleet keeps no files: set LANEFLEET_FILES_URL, or LANEFLEET_BLOB_URL, to a "
            "folder or bucket that the API and the courier share"
        )
        raise Problem(501, "files_not_kept", detail)
    return services.batches.files


async def _known(files: Files, file_id: str, principal: Principal) -> FileRecord:
    record = await files.get(file_id, principal.tenant)
    if record is None:
        raise Problem(404, "unknown_file", f"there is no file {file_id[:80]!r}", param="file_id")
    return record


async def _all_of(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


async def _pieces(files: Files, file_id: str, first: int, end: int) -> AsyncGenerator[bytes, None]:
    left = end - first
    async with aclosing(files.read(file_id, first)) as parts:
        async for part in parts:
            for at in range(0, min(len(part), left), _CHUNK_BYTES):
                yield part[at : min(at + _CHUNK_BYTES, left)]
            left -= len(part)
            if left <= 0:
                return


async def _forget(files: Files, file_id: str) -> None:
    try:
        await files.forget(file_id)
    except (RedisError, InputStoreUnavailable):
        return  # the courier's sweep removes them


def _record_of(
    upload: Upload, file_id: str, principal: Principal, created_ms: int, ttl_seconds: int
) -> FileRecord:
    if upload.filename is None:
        raise InvalidRequest("`file`: send a file in a part of this name", param="file")
    purpose = upload.fields.get("purpose")
    if purpose not in _PURPOSES:
        raise InvalidRequest(
            "`purpose`: send batch; files are kept for nothing else", param="purpose"
        )
    if not upload.bytes:
        raise InvalidRequest("`file`: it is empty", param="file")
    seconds = _seconds_of(upload.fields, ttl_seconds)
    return FileRecord(
        id=file_id,
        tenant=principal.tenant,
        purpose=purpose,
        filename=upload.filename[:256] or "file",
        bytes=upload.bytes,
        created_ms=created_ms,
        expires_ms=created_ms + seconds * 1000,
    )


def _seconds_of(fields: dict[str, str], ttl_seconds: int) -> int:
    text = fields.get("expires_after[seconds]")
    if fields.get("expires_after[anchor]", "created_at") != "created_at":
        detail = "`expires_after[anchor]`: send created_at"
        raise InvalidRequest(detail, param="expires_after")
    if text is None:
        return ttl_seconds
    if not text.isascii() or not text.isdigit() or not _LEAST_SECONDS <= int(text) <= _MOST_SECONDS:
        detail = f"`expires_after[seconds]`: send {_LEAST_SECONDS} to {_MOST_SECONDS}"
        raise InvalidRequest(detail, param="expires_after")
    return int(text)
