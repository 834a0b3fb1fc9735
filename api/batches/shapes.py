"""Files and batches in OpenAI's shapes."""

from __future__ import annotations

from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from common.batches.records import BatchRecord, BatchStatus, FileRecord

_MOST_PAIRS, _KEY_CHARACTERS, _VALUE_CHARACTERS = 16, 64, 512


class FileObject(BaseModel):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, record: FileRecord) -> FileObject:
        """The view of a file."""
        return cls(
            id=record.id,
            bytes=record.bytes,
            created_at=record.created_ms // 1000,
            expires_at=record.expires_ms // 1000,
            filename=record.filename,
            purpose=record.purpose,
        )


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class FileDeleted(BaseModel):
    """A file that is no more."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class OutputExpiry(BaseModel):
    """How long the files of a batch's results are kept."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3_600, le=2_592_000)


class BatchRequest(BaseModel):
    """A batch as OpenAI's client asks for it."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str = Field(description="A file that was uploaded with the purpose `batch`.")
    endpoint: Literal["/v1/embeddings", "/v1/completions", "/v1/chat/completions", "/v1/jobs"] = (
        Field(description="Whose requests the lines are.")
    )
    completion_window: str = Field(
        "24h", description="How long it may take, as 30m, 24h or 2d; then it ends as it is."
    )
    metadata: dict[str, str] | None = Field(
        None, description="At most 16 pairs of texts, of 64 and 512 characters."
    )
    output_expires_after: OutputExpiry | None = None


class BatchError(BaseModel):
    """What is wrong with one line of a batch's file."""

    code: str
    line: int | None = None
    message: str
    param: str | None = None


class BatchErrors(BaseModel):
    """What is wrong with a batch's file."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    """How far a batch is, in lines."""

    total: int
    completed: int
    failed: int


class BatchObject(BaseModel):
    """A batch. Times are Unix seconds."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    expected_completion_at: int | None = Field(
        None, description="When it will be done at the pace of the last half minute."
    )
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts
    metadata: dict[str, str] | None = None
    trouble: str | None = Field(
        None, description="What it waits for, where results cannot be written at the moment."
    )

    @classmethod
    def of(cls, record: BatchRecord, now: float) -> BatchObject:
        """The view of a batch; now is Unix seconds."""
        errors = orjson.loads(record.errors) if record.errors else []
        return cls(
            id=record.id,
            endpoint=record.endpoint,
            errors=BatchErrors(data=errors) if errors else None,
            input_file_id=record.input_file,
            completion_window=record.window,
            status=record.status,
            output_file_id=record.output_file if record.has_output else None,
            error_file_id=record.error_file if record.has_errors else None,
            created_at=record.created_ms // 1000,
            in_progress_at=_seconds(record.in_progress_ms),
            expires_at=record.expires_ms // 1000,
            expected_completion_at=_expected(record, now),
            finalizing_at=_seconds(record.finalizing_ms),
            completed_at=_seconds(record.completed_ms),
            failed_at=_seconds(record.failed_ms),
            expired_at=_seconds(record.expired_ms),
            cancelling_at=_seconds(record.cancelling_ms),
            cancelled_at=_seconds(record.cancelled_ms),
            request_counts=_counts(record),
            metadata=orjson.loads(record.metadata) if record.metadata else None,
            trouble=record.trouble or None,
        )


class BatchList(BaseModel):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


def _counts(record: BatchRecord) -> RequestCounts:
    return RequestCounts(
        total=record.total,
        completed=record.completed + record.ahead_completed,
        failed=record.failed + record.ahead_failed,
    )


def _expected(record: BatchRecord, now: float) -> int | None:
    if record.status is not BatchStatus.IN_PROGRESS or record.rate <= 0:
        return None
    counts = _counts(record)
    left = max(0, counts.total - counts.completed - counts.failed)
    return int(now + left / record.rate) + 1


def _seconds(unix_ms: int) -> int | None:
    return unix_ms // 1000 or None


def metadata_problem(metadata: dict[str, str] | None) -> str | None:
    """What is wrong with the metadata, if anything."""
    if metadata is None:
        return None
    if len(metadata) > _MOST_PAIRS:
        return f"send at most {_MOST_PAIRS} pairs"
    for key, value in metadata.items():
        if not 0 < len(key) <= _KEY_CHARACTERS:
            return f"keys have 1 to {_KEY_CHARACTERS} characters"
        if len(value) > _VALUE_CHARACTERS:
            return f"{key!r}: values have at most {_VALUE_CHARACTERS} characters"
    return None


def page_of(ids: list[str], after: str | None, limit: int) -> tuple[list[str], bool]:
    """The ids after this one, and whether there are more; an unknown `after` begins anew."""
    first = ids.index(after) + 1 if after in ids else 0
    return ids[first : first + limit], len(ids) > first + limit
