"""What webhooks tell of the end of a batch."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from common.batches.records import BatchRecord, BatchStatus
from common.webhooks.events import EVENT_OF_BATCH, body_of


def end_event(
    record: BatchRecord, status: BatchStatus, ended_ms: int, files: Mapping[str, int] | None = None
) -> bytes:
    """The body, of a batch that ends with this status and has these of its files."""
    has = files or {}
    data = {
        "id": record.id,
        "status": status,
        "endpoint": record.endpoint,
        "input_file_id": record.input_file,
        "output_file_id": record.output_file if has.get("has_output") else None,
        "error_file_id": record.error_file if has.get("has_errors") else None,
        "request_counts": {
            "total": record.total,
            "completed": record.completed,
            "failed": record.failed,
        },
        "metadata": orjson.loads(record.metadata) if record.metadata else None,
    }
    return body_of(EVENT_OF_BATCH[status], ended_ms, data)
