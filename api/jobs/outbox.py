"""What settled jobs lead to and could not be sent: entries that workers gave up, and what to do.

An entry is given up after eight tries, mostly for a canvas that its client wrote wrongly. Retrying
puts it back among those that workers continue; dropping it ends its chain there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, cast

import orjson
import redis.asyncio

from common.redis.keys import OUTBOX, OUTBOX_FAILED
from common.redis.scripts import AsyncScripts

_PER_CALL = 500
_ENTRIES_PER_READ = 16
"""Each has the result of its job, which may be of some megabytes."""
_MAX_ERROR = 500
_MAX_NAMES = 20

Fields = dict[bytes, bytes]


class OutboxCounts(NamedTuple):
    """Entries that workers are to continue, and entries that they gave up."""

    waiting: int
    failed: int


class OutboxEntry(NamedTuple):
    """One entry that was given up."""

    id: str
    job_id: str
    error: str
    failed_ms: int
    """When, Unix milliseconds."""
    leads_to: list[str]
    """The tasks that it would have sent, by name."""


class Outbox:
    """Lists, retries and drops them."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._scripts = AsyncScripts(client)

    async def counts(self) -> OutboxCounts:
        """How many there are."""
        pipe = self._client.pipeline(transaction=False)
        pipe.xlen(OUTBOX)
        pipe.xlen(OUTBOX_FAILED)
        return OutboxCounts(*await pipe.execute())

    async def failed(self, limit: int) -> list[OutboxEntry]:
        """Those that were given up, newest first."""
        entries: list[OutboxEntry] = []
        last = "+"
        while len(entries) < limit:
            count = min(_ENTRIES_PER_READ, limit - len(entries))
            found = _entries(await self._client.xrevrange(OUTBOX_FAILED, last, count=count))
            entries += [_entry(entry_id, fields) for entry_id, fields in found]
            if len(found) < count:
                break
            last = f"({entries[-1].id}"
        return entries

    async def retry(self, ids: Sequence[str] | None) -> int:
        """Put these back, or all; returns how many."""
        return await self._each(ids, retry=True)

    async def drop(self, ids: Sequence[str] | None) -> int:
        """Remove these for good, or all; returns how many."""
        return await self._each(ids, retry=False)

    async def _each(self, ids: Sequence[str] | None, *, retry: bool) -> int:
        done, left = 0, list(ids or ())
        while batch := left[:_PER_CALL] if ids is not None else await self._oldest():
            if retry:
                moved = int(await self._scripts.run("outbox_retry", (), batch))
            else:
                moved = int(await self._client.xdel(OUTBOX_FAILED, *batch))
            done += moved
            left = left[_PER_CALL:]
            if ids is None and not moved:
                break  # somebody else takes them
        return done

    async def _oldest(self) -> list[str]:
        found = await self._client.xrange(OUTBOX_FAILED, count=_PER_CALL)
        return [entry_id.decode() for entry_id, _ in _entries(found)]


def _entries(found: Any) -> list[tuple[bytes, Fields]]:
    return cast("list[tuple[bytes, Fields]]", found)


def _entry(entry_id: bytes, fields: Fields) -> OutboxEntry:
    text = fields.get(b"error", b"").decode("utf-8", "replace")
    job_id = fields.get(b"id", b"").decode("utf-8", "replace")
    names = list(islice(_tasks(_parsed(fields.get(b"next", b""))), _MAX_NAMES))
    when = int(entry_id.partition(b"-")[0])
    return OutboxEntry(entry_id.decode(), job_id, text[:_MAX_ERROR], when, names)


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return None


def _tasks(value: Any) -> Iterator[str]:
    """The names of the tasks in Celery's signatures, wherever they are in this."""
    found, seen = deque([value]), set()
    while found:
        one = found.popleft()
        if isinstance(one, dict):
            name = one.get("task")
            if isinstance(name, str) and name not in seen:
                seen.add(name)
                yield name
            found += one.values()
        elif isinstance(one, list):
            found += one
