"""What one tenant may take of what all tenants of a process have in common."""

from __future__ import annotations

from collections import Counter


class Shares:
    """Counts what each tenant has; those without a tenant are not counted."""

    def __init__(self, most: int, share: float) -> None:
        """most is what there is for all."""
        self.each = max(1, int(most * share))
        self._taken: Counter[str] = Counter()

    def take(self, tenant: str) -> bool:
        """Take one; returns whether the tenant may have it."""
        if not tenant:
            return True
        if self._taken[tenant] >= self.each:
            return False
        self._taken[tenant] += 1
        return True

    def give(self, tenant: str) -> None:
        """Give one back."""
        if tenant:
            self._taken[tenant] -= 1
            if self._taken[tenant] <= 0:
                del self._taken[tenant]
