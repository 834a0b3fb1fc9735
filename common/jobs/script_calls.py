"""The arguments of the scripts that the front and operators call, in the order of the headers.

Those of the enqueue script are in enqueue.py; those of scripts that only workers call, in
worker/jobs/leases.py. A test compares each with the header of its script.
"""

from __future__ import annotations

from typing import NamedTuple


class CancelCall(NamedTuple):
    """Settle one job in any open state."""

    job_id: str
    result_ttl: int
    state: str
    """`canceled` or `expired`."""


class DropCall(NamedTuple):
    """End jobs of a lane that nobody serves."""

    lane: str
    limit: int
    result_ttl: int


class ReapCall(NamedTuple):
    """Return expired leases and due delayed jobs to their lane."""

    lane: str
    limit: int
    result_ttl: int
    window: int
    grace_ms: int
    patience_ms: int


class ExpireCall(NamedTuple):
    """Settle waiting jobs of one list that are past their deadline."""

    lane: str
    result_ttl: int
    band: int
    """The band's number, 1 to 4."""
    tenant: str
    """Whose messages beside the band; empty for the band's own list."""
    first: int
    """The index to begin at, counted from the one that is served first."""
    limit: int


class ListJobsCall(NamedTuple):
    """A page of a tenant's jobs. 0 or an empty string means no filter."""

    tenant: str
    below: int
    limit: int
    looks: int
    lane: str
    state: str
    """A state, or `open` for those that are not settled."""
    created_after_ms: int
    created_before_ms: int
    labels: str = ""


class LabelsOfJob(NamedTuple):
    """One job whose labels are asked for."""

    tenant: str
    job_id: str
    created_ms: int


class ClaimCall(NamedTuple):
    """Claim an idempotency key."""

    claim: str
    """The digest of the request and the job's id."""
    ttl_seconds: int


class BreakerMove(NamedTuple):
    """Change a breaker that is still in the state `seen`; with an empty `next`, take a probe."""

    seen: str
    next: str
    probes: int = 0
    """Number of probes."""
    tenant: str = ""
    """Whose breaker; empty for the lane's own."""
