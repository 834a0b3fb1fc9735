"""The lanes of the fleet's own work: served by the courier role alone, and not in the catalog.

Their names begin with `~`, which no model's may: so nothing that looks a model up in the catalog
takes work for them, and one test of the first character hides them.
"""

from __future__ import annotations

MARK = "~"
WEBHOOKS = "~webhook"
BATCHES = "~batch"
SYSTEM_LANES = (WEBHOOKS, BATCHES)


def is_system(lane: str) -> bool:
    """Whether the lane is one of the fleet's own."""
    return lane.startswith(MARK)


def system_tenant(tenant: str) -> str:
    """Under which name a tenant's jobs of system lanes are counted: beside its own jobs, so that
    they use none of its quota, and apart from other tenants', so that each gets its share.
    """
    return MARK + tenant
