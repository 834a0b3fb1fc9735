"""What this courier's batches came to, for metrics. Tenants are named in the order they come, as
many as are allowed; so no counter goes back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from common.batches.records import BatchStatus
from common.metrics.courier import BATCH_LINES, BATCHES_ENDED
from common.metrics.declaration import MetricFamily

OTHER = "other"
"""Also of a tenant that is called so."""
_ENDS = tuple(one for one in BatchStatus if one.ended)


class BatchCounts:
    """Of one courier, since its start."""

    def __init__(self, max_tenants: int) -> None:
        self._max_tenants = max_tenants
        self._lines: dict[str, list[int]] = {}
        """Succeeded and failed, by tenant."""
        self._ended: Counter[BatchStatus] = Counter()

    def lines(self, tenant: str, succeeded: int, failed: int) -> None:
        """So many lines of a tenant were written."""
        if tenant not in self._lines and len(self._lines.keys() - {OTHER}) >= self._max_tenants:
            tenant = OTHER
        counts = self._lines.setdefault(tenant, [0, 0])
        counts[0] += succeeded
        counts[1] += failed

    def ended(self, status: BatchStatus) -> None:
        """A batch ended."""
        self._ended[status] += 1

    def families(self) -> Iterator[MetricFamily]:
        """Its metrics, for one scrape."""
        ended, lines = BATCHES_ENDED.family(), BATCH_LINES.family()
        for status in _ENDS:
            ended.add(self._ended[status], status)
        for tenant, counts in self._lines.items():
            for outcome, count in zip(("succeeded", "failed"), counts, strict=True):
                lines.add(count, tenant, outcome)
        yield from (ended, lines)
