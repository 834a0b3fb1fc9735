"""Signs that somebody else uses this database in another way than this fleet, for the log.

Two fleets in one database share lanes, keys and commands; a Celery client whose transport
options differ sends into lists that nobody reads. Neither can be made to work from here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import cast

import redis.asyncio

from common.redis.keys import BAND_SEPARATOR, BANDS
from common.worker_report import WorkerReport

_SEPARATORS = (BAND_SEPARATOR, ":")


def foreign_lanes(reports: Iterable[WorkerReport], catalog: Collection[str]) -> list[str]:
    """Lanes that live workers serve and the catalog has not."""
    return sorted({lane for report in reports for lane in report.lanes} - {*catalog})


def disputed_lanes(reports: Iterable[WorkerReport]) -> list[str]:
    """Lanes that live workers serve with different weights of one model."""
    found: dict[str, set[tuple[str, str]]] = {}
    for report in reports:
        for name, lane in report.lanes.items():
            if lane.fingerprint:
                found.setdefault(name, set()).add((lane.model, lane.fingerprint))
    weights: Mapping[str, set[str]] = {
        name: {model for model, _ in pairs} for name, pairs in found.items()
    }
    return sorted(name for name, pairs in found.items() if len(pairs) > len(weights[name]))


async def unread_lists(client: redis.asyncio.Redis, lanes: Iterable[str]) -> list[str]:
    """Lists of these lanes that clients with other priority steps, or another separator, fill.

    Whose names cannot be guessed, as with a prefix, cannot be found.
    """
    names = [name for lane in lanes for name in _unread_names(lane)]
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.llen(name)
    found = cast("list[int | Exception]", await pipe.execute(raise_on_error=False))
    return [
        name
        for name, length in zip(names, found, strict=True)
        if isinstance(length, int) and length
    ]


def _unread_names(lane: str) -> Iterator[str]:
    for separator in _SEPARATORS:
        for step in range(1, 10):
            if separator != BAND_SEPARATOR or step not in BANDS:
                yield f"{lane}{separator}{step}"
