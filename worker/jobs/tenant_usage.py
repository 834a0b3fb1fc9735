"""Device time and jobs by tenant: the busiest under their names, all others together.

A tenant's counter grows only while it has its name, and that of the others only by tenants without
one, so none ever goes back. Names are given anew once a minute, by the use since; a tenant keeps
its name until one without has used half as much again, so that few series come and go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

OTHER = "other"
"""Also of a tenant that is called so."""
_ROUND_SECONDS = 60.0
_KEEPS = 1.5
_DECAY = 0.5
_CANDIDATES_PER_NAME = 10


@dataclass(slots=True)
class Use:
    """What tenants have used."""

    seconds: float = 0.0
    items: int = 0


class TenantUsage:
    """Written by the device's thread; any thread may read, one batch late."""

    def __init__(self, max_tenants: int) -> None:
        self._max = max_tenants
        self._named: dict[str, Use] = {}
        self._others = Use()
        self._retired: dict[str, Use] = {}
        """Those that lost their name, should they get it again; bounded."""
        self._recent: dict[str, float] = {}
        self._round_at = 0.0

    def used(self, tenant: str, seconds: float, items: int, now: float) -> None:
        """Count a tenant's share of a batch; now is steady time."""
        use = self._named.get(tenant)
        if use is None:
            use = self._may_name(tenant) or self._others
        use.seconds += seconds
        use.items += items
        self._recent[tenant] = self._recent.get(tenant, 0.0) + seconds
        if now >= self._round_at or len(self._recent) > 2 * self._max * _CANDIDATES_PER_NAME + 2:
            self._round_at = now + _ROUND_SECONDS
            self._choose()

    def _may_name(self, tenant: str) -> Use | None:
        """Give it a name of its own while there are any."""
        if tenant == OTHER or len(self._named) >= self._max:
            return None
        use = self._retired.pop(tenant, None) or Use()
        self._named[tenant] = use
        return use

    def _choose(self) -> None:
        """Give the names to the busiest since the last time."""
        recent = self._recent
        waiting = sorted((t for t in recent if t not in self._named and t != OTHER), key=recent.get)  # type: ignore[arg-type]
        for idle in sorted(self._named, key=lambda tenant: recent.get(tenant, 0.0)):
            if not waiting or recent[waiting[-1]] <= recent.get(idle, 0.0) * _KEEPS:
                break
            self._retire(idle)
            self._may_name(waiting.pop())
        most = self._max * _CANDIDATES_PER_NAME
        kept = sorted(recent, key=recent.get, reverse=True)[:most]  # type: ignore[arg-type]
        self._recent = {tenant: recent[tenant] * _DECAY for tenant in kept}

    def _retire(self, tenant: str) -> None:
        self._retired[tenant] = self._named.pop(tenant)
        while len(self._retired) > self._max * _CANDIDATES_PER_NAME:
            del self._retired[next(iter(self._retired))]  # should it return, it begins at 0

    def items(self) -> Iterator[tuple[str, Use]]:
        """The tenants with names, then the others where there are any."""
        yield from list(self._named.items())
        if self._others.items:
            yield OTHER, self._others
