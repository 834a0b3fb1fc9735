"""The words of the scripts that a job's front and operators call, in the order of their headers.

Those of the enqueue script are in enqueue.py; those that only a worker calls, in
worker/jobs/leases.py. A test compares each with the header of its script.
"""

from __future__ import annotations

from typing import NamedTuple


class CancelCall(NamedTuple):
    """End one job, wherever it is."""

    job_id: str
    result_ttl: int
    state: str
    """`canceled` or `expired`."""


class DropCall(NamedTuple):
    """End jobs of a lane that nobody serves."""

    lane: str
    limit: int
    result_ttl: int


class ListJobsCall(NamedTuple):
    """A page of a tenant's jobs. What asks for nothing is 0 or empty."""

    tenant: str
    below: int
    limit: int
    looks: int
    lane: str
    state: str
    created_after_ms: int
    created_before_ms: int


class ClaimCall(NamedTuple):
    """Claim an idempotency key."""

    claim: str
    """The digest of the request and the job's id."""
    ttl_seconds: int


class BreakerMove(NamedTuple):
    """Move a breaker that is still as we saw it; with an empty `next`, take a probe."""

    seen: str
    next: str
    probes: int = 0
    """How many there are."""
