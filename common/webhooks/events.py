"""The events that webhooks tell of, and the entry of the outbox that each begins as.

A job's entry is written by the script that settles it (lua/include/outbox.lua), with the result
as it is then: retries of a delivery outlive the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson

from common.jobs.job import EVENT_OF_STATE
from common.jobs.record import JobRecord

EVENT_OF_BATCH: Mapping[str, str] = {
    "completed": "batch.completed",
    "failed": "batch.failed",
    "expired": "batch.expired",
    "cancelled": "batch.cancelled",
}
"""How webhooks call a batch's end, by its final status; move_batch.lua writes the entry."""
PING = "webhook.ping"
EVENTS: tuple[str, ...] = (*sorted(set(EVENT_OF_STATE.values())), *EVENT_OF_BATCH.values())
"""What endpoints may ask for. A new kind is a line here, and an entry with that type."""

EVERY_ENDPOINT = "*"
"""In place of a URL or an id: the tenant's endpoints that ask for the event."""
DEAD_REASONS = frozenset({"attempts_exhausted", "unreadable", "message_too_large"})
"""Reasons of failures whose job is on the dead list."""


class Event(NamedTuple):
    """One event, before it is known who is told of it."""

    type: str
    tenant: str
    subject: str
    """The id of the job or batch."""
    target: str
    """A URL or an endpoint's id; or EVERY_ENDPOINT alone."""
    body: bytes
    """What is sent: JSON."""


def entry_of(event: Event) -> dict[str | bytes, str | bytes]:
    """The outbox's fields of an event that no job's end has written."""
    return {
        "type": event.type,
        "tenant": event.tenant,
        "id": event.subject,
        "target": event.target,
        "body": event.body,
    }


def read_entry(fields: Mapping[bytes, bytes], result_bytes: int, base_url: str) -> Event:
    """The event of an entry; raises ValueError or KeyError for one that is none.

    A result of more than result_bytes is left out, and linked to.
    """
    if b"type" in fields:
        return Event(
            fields[b"type"].decode(),
            fields[b"tenant"].decode(),
            fields[b"id"].decode(),
            fields[b"target"].decode(),
            fields[b"body"],
        )
    job_id = fields[b"id"].decode()
    target = str(orjson.loads(fields[b"next"])["webhook"])
    record = _record(job_id, fields)
    event = event_of(record)
    body = body_of(event, record.finished_ms, _job_data(record, fields, result_bytes, base_url))
    return Event(event, record.tenant, job_id, target, body)


def event_of(record: JobRecord) -> str:
    """What the end of this job is called."""
    if record.reason in DEAD_REASONS:
        return EVENT_OF_STATE["dead"]
    return EVENT_OF_STATE[record.state.value]


def body_of(event: str, at_ms: int | None, data: Mapping[str, Any]) -> bytes:
    """The payload: its type, when it happened, and what."""
    moment = datetime.now(UTC) if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC)
    return orjson.dumps({"type": event, "timestamp": moment, "data": data}, option=orjson.OPT_UTC_Z)


def _record(job_id: str, fields: Mapping[bytes, bytes]) -> JobRecord:
    meta = fields.get(b"meta")
    if meta is None:  # a large result: its end has all but the model's output
        about = fields[b"tail"].rpartition(b',"lanefleet":')[2]
        meta = b'{"status":"SUCCESS","result":null,"lanefleet":' + about
    record = JobRecord.read(job_id, None, meta)
    if record is None:
        raise ValueError("an entry without a result")
    return record


def _job_data(
    record: JobRecord, fields: Mapping[bytes, bytes], result_bytes: int, base_url: str
) -> dict[str, Any]:
    path = f"{base_url}/v1/jobs/{quote(record.id, safe='')}"
    data: dict[str, Any] = {
        "id": record.id,
        "model": record.lane,
        "state": record.state.value,
        "created_at": _moment(record.created_ms),
        "started_at": _moment(record.started_ms),
        "finished_at": _moment(record.finished_ms),
        "attempts": record.attempts,
        "version": record.version,
        "links": {"self": path, "result": f"{path}/result"},
    }
    if record.reason:
        data["error"] = {
            "reason": record.reason,
            "message": _written(record.error or record.reason),
        }
    if record.state.value == "succeeded":
        result = None if b"tail" in fields else _as_json(record.result)
        if result is not None and len(result) <= result_bytes:
            data["result"] = orjson.Fragment(result)
        else:
            data["result_omitted"] = "it is larger than a webhook carries; get it by links.result"
    return data


def _as_json(result: Any) -> bytes | None:
    """The result; None of what only another Celery worker stores, and no JSON of ours can hold: a
    number beyond 64 bits, half a character.
    """
    try:
        return orjson.dumps(result)
    except orjson.JSONEncodeError:
        return None


def _written(text: str) -> str:
    """The text without halves of characters."""
    return text.encode("utf-8", "replace").decode()


def _moment(unix_ms: int | None) -> datetime | None:
    return None if unix_ms is None else datetime.fromtimestamp(unix_ms / 1000, UTC)
