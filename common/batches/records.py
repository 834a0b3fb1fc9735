"""A file and a batch as Redis has them, and the moves that a batch may make.

Pure: no I/O and no clock.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from os import urandom
from typing import Any, TypeVar, get_type_hints

Record = TypeVar("Record", "FileRecord", "BatchRecord")

FILE_ID = re.compile(r"file-[0-9a-f]{32}")
BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")
_WINDOW = re.compile(r"([1-9][0-9]{0,6})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class BatchStatus(StrEnum):
    """OpenAI's states of a batch. The last four are ends."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing leaves it."""
        return not MOVES[self]


_S = BatchStatus
MOVES: Mapping[BatchStatus, frozenset[BatchStatus]] = {
    _S.VALIDATING: frozenset({_S.IN_PROGRESS, _S.FAILED, _S.CANCELLING, _S.EXPIRED}),
    _S.IN_PROGRESS: frozenset({_S.FINALIZING, _S.CANCELLING, _S.EXPIRED, _S.FAILED}),
    _S.CANCELLING: frozenset({_S.CANCELLED}),
    _S.FINALIZING: frozenset({_S.COMPLETED}),
    **{end: frozenset() for end in (_S.COMPLETED, _S.FAILED, _S.EXPIRED, _S.CANCELLED)},
}


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file. Times are Unix milliseconds."""

    id: str
    tenant: str
    purpose: str
    filename: str
    bytes: int
    created_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch. Times are Unix milliseconds, 0 where it did not happen."""

    id: str
    tenant: str
    endpoint: str
    input_file: str
    window: str
    """completion_window as it was asked for."""
    metadata: str
    """JSON."""
    status: BatchStatus
    created_ms: int
    expires_ms: int
    """When its completion window ends."""
    output_file: str
    error_file: str
    window_jobs: int
    """Jobs of it that may be under way at a time."""
    file_seconds: int
    """How long the files of its results are kept."""
    total: int = 0
    completed: int = 0
    failed: int = 0
    line: int = 0
    """Lines whose results are in the files."""
    offset: int = 0
    """Bytes of the input that these lines are."""
    ahead_completed: int = 0
    ahead_failed: int = 0
    """Lines that ended and are not in the files yet."""
    fed: int = 0
    """Lines whose jobs may have been enqueued."""
    rate: float = 0.0
    """Lines per second, as lately."""
    output_bytes: int = 0
    error_bytes: int = 0
    errors: str = ""
    """JSON: why it is no batch, by line."""
    trouble: str = ""
    """What it waits for that should not be so."""
    has_output: int = 0
    has_errors: int = 0
    job: str = ""
    """The job of the lane `~batch` that runs it."""
    in_progress_ms: int = 0
    finalizing_ms: int = 0
    completed_ms: int = 0
    failed_ms: int = 0
    expired_ms: int = 0
    cancelling_ms: int = 0
    cancelled_ms: int = 0


def new_file_id() -> str:
    """A file's id, which cannot be guessed."""
    return f"file-{urandom(16).hex()}"


def new_batch_id() -> str:
    """A batch's id, which cannot be guessed."""
    return f"batch_{urandom(16).hex()}"


def line_job_id(batch: str, line: int, index: int = 0) -> str:
    """The id of the job for one input of a line: always the same, so that a line that is fed twice
    is one job. It has the form of a UUID.
    """
    raw = hashlib.sha256(f"{batch}:{line}:{index}".encode()).hexdigest()
    return f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-a{raw[17:20]}-{raw[20:32]}"


def window_seconds(text: str) -> int | None:
    """The seconds of a completion window such as 24h; None for what is none."""
    found = _WINDOW.fullmatch(text)
    return int(found[1]) * _UNITS[found[2]] if found else None


def words_of(record: FileRecord | BatchRecord) -> list[str]:
    """Names and values of the record's fields, as HSET takes them."""
    return [word for one in fields(record) for word in (one.name, str(getattr(record, one.name)))]


def read_record(kind: type[Record], stored: Mapping[bytes, bytes]) -> Record | None:
    """The record from its hash, None from an empty one; fields of other versions are left out."""
    if not stored:
        return None
    types = get_type_hints(kind)
    found: dict[str, Any] = {
        name: types[name](value.decode())
        for name in types
        if (value := stored.get(name.encode())) is not None
    }
    return kind(**found)
