"""Reads what another worker has said of jobs that this one takes over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from redis import Redis

from common.generation.said import read_entry
from common.redis.keys import said_key
from worker.jobs.execution import Execution, Said

log = structlog.get_logger(__name__)

_ENTRIES_A_CALL = 2_000


def read_said(client: Redis, executions: Sequence[Execution]) -> None:
    """Set `said` of those that have a stream. Whoever wrote there has lost its lease by now, so
    nothing comes after what is read.
    """
    waiting = list(executions)
    while waiting:
        pipe = client.pipeline(transaction=False)
        for execution in waiting:
            after = f"({execution.said_entries}-0" if execution.said_entries else "-"
            pipe.xrange(said_key(execution.job_id), after, "+", count=_ENTRIES_A_CALL)
        found: list[list[tuple[bytes, dict[bytes, bytes]]]] = pipe.execute()
        for execution, entries in zip(waiting, found, strict=True):
            _take(execution, entries)
        waiting = [
            one
            for one, entries in zip(waiting, found, strict=True)
            if len(entries) == _ENTRIES_A_CALL
        ]


def _take(execution: Execution, entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> None:
    said: dict[int, Said] = dict(execution.said or {})
    for number, fields in entries:
        execution.said_entries = int(number.partition(b"-")[0])
        for delta in _deltas_of(execution, fields):
            one = said.setdefault(delta.choice, Said())
            one.tokens += delta.tokens
            one.text += delta.text
            one.logprobs += delta.logprobs
            one.finish = delta.finish
    if said:
        execution.said = said


def _deltas_of(execution: Execution, fields: dict[bytes, bytes]) -> list[Any]:
    try:
        return read_entry(fields[b"d"])
    except (ValueError, KeyError, TypeError):
        log.error("said_unreadable", job_id=ascii(execution.job_id))
        return []
