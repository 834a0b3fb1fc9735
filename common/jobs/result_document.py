"""The result as Celery stores it, with what we add; written here and nowhere else."""

from __future__ import annotations

from typing import Any

import orjson

from common.jobs.cache_entry import Entry, age_seconds


def hit_meta(entry: Entry, job_id: str, lane: str, now_ms: int, tenant: str = "") -> bytes:
    """A hit as the result of this job, as Celery stores it."""
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
    return (
        b'{"status":"SUCCESS","result":%b,"traceback":null,"children":[],"date_done":null,'
        b'"task_id":"%b","lanefleet":%b}' % (entry.result, job_id.encode(), orjson.dumps(about))
    )
