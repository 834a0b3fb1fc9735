"""The result of a job: the fields that Celery stores, and this project's under `lanefleet`.

The only writer in Python; in Lua it is include/result_document.lua, for jobs that a script ends.
tests/data/result_documents.json has one of each kind, and both writers are tested against it.
`JobRecord` (record.py) parses it.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from datetime import UTC, datetime
from typing import Any

import orjson

from common.errors import FleetError
from common.jobs.cache_entry import Entry, age_seconds

_NO_CHILDREN = b'"children":[]'


class Stamp:
    """Writes the results of one batch; their common fields are encoded once.

    Formatted by hand, because encoding each as an object would cost several microseconds per job.
    """

    def __init__(
        self,
        lane: str,
        version: str,
        worker: str,
        batch_size: int,
        infer_ms: float,
        finished_ms: int,
        date_done: str = "",
        computed_by: str = "",
    ) -> None:
        """finished_ms is Unix milliseconds of the Redis server; date_done is now by default.

        computed_by: backend, precision and weights digest, where the model names them.
        """
        self.lane = lane
        self._date_done = date_done or datetime.now(UTC).isoformat()
        self._about: dict[str, Any] = {
            "lane": lane,
            "version": version,
            "worker": worker,
            "batch_size": batch_size,
            "infer_ms": round(infer_ms, 3),
            "finished_ms": finished_ms,
        }
        if computed_by:
            self._about["computed_by"] = computed_by
        self._before_id = (
            b',"traceback":null,"children":[],"date_done":"%s","task_id":"'
            % self._date_done.encode()
        )
        self._after_id = b'","lanefleet":{"state":"succeeded",%s,"attempts":' % orjson.dumps(
            self._about
        ).strip(b"{}")

    def success(
        self,
        result: bytes,
        job_id: str,
        attempts: int,
        created_ms: int,
        started_ms: int,
        tenant: str,
        call: str = "",
    ) -> bytes:
        """A job that succeeded; result is JSON, created_ms 0 where it is not known. `call` is a
        digest of what it was sent with, at the end, where include/same_call.lua looks for it.
        """
        return b'{"status":"SUCCESS","result":%b%b%b%b%d,"created_ms":%b,"started_ms":%d%b%b}}' % (
            result,
            self._before_id,
            job_id.encode(),
            self._after_id,
            attempts,
            b"%d" % created_ms if created_ms else b"null",
            started_ms,
            b',"tenant":"%b"' % tenant.encode() if tenant else b"",
            b',"call":"%b"' % call.encode() if call else b"",
        )

    def failure(
        self,
        job_id: str,
        attempts: int,
        created_ms: int,
        started_ms: int,
        tenant: str,
        *,
        exc_type: str,
        exc_module: str = FleetError.celery_module,
        step: str,
        reason: str,
        error: str,
        call: str = "",
    ) -> bytes:
        """The result of a job that failed in this step, with this machine-readable reason."""
        about = {
            "state": "failed",
            **self._about,
            "attempts": attempts,
            "created_ms": created_ms or None,
            "started_ms": started_ms,
            "reason": reason,
            "error": error,
        }
        if tenant:
            about["tenant"] = tenant
        if call:
            about["call"] = call
        return orjson.dumps(
            {
                "status": "FAILURE",
                "result": {
                    "exc_type": exc_type,
                    "exc_message": [error],
                    "exc_module": exc_module,
                },
                "traceback": f"in step {step}",
                "children": [],
                "date_done": self._date_done,
                "task_id": job_id,
                "lanefleet": about,
            }
        )


def with_lineage(result: bytes, lineage: bytes) -> bytes:
    """The result with these fields, JSON without braces, in the place of its empty `children`."""
    # What the model returned may look alike, but comes before it.
    before, found, after = result.rpartition(_NO_CHILDREN)
    return before + lineage + after if found else result


def cache_hit(entry: Entry, job_id: str, lane: str, now_ms: int, tenant: str = "") -> bytes:
    """The result of a job that was answered from the cache."""
    about: dict[str, Any] = {
        "state": "succeeded",
        "lane": lane,
        "version": entry.version,
        "created_ms": now_ms,
        "finished_ms": now_ms,
        "attempts": 0,
        "cached": True,
        "age": age_seconds(entry, now_ms),
    }
    if tenant:
        about["tenant"] = tenant
    done = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat()
    return (
        b'{"status":"SUCCESS","result":%b,"traceback":null,"children":[],"date_done":"%b",'
        b'"task_id":"%b","lanefleet":%b}'
        % (entry.result, done.encode(), job_id.encode(), orjson.dumps(about))
    )


def dump_result(value: Any) -> bytes:
    """The value as JSON; raises ValueError for NaN and infinity, and TypeError where JSON has no
    such value.

    orjson turns NaN and infinity into null, whatever they are in, so a result that contains a
    null is looked at again.
    """
    dumped = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in dumped:
        try:
            json.dumps(value, allow_nan=False, default=_plain)
        except ValueError as exc:
            raise ValueError(
                "the result has a NaN or an infinity in it, which JSON cannot represent; `encode` "
                "must return another value for it, or None"
            ) from exc
    return dumped


def _plain(value: Any) -> Any:
    """What orjson takes and json does not, as values in which json finds a NaN."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if hasattr(value, "tolist"):  # an array or a scalar of numpy
        return value.tolist()
    return str(value)
