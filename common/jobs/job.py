"""A job before it is published, and its id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import urandom
from typing import Any

from common.jobs.quota import UNLIMITED, Limits


def new_job_id() -> str:
    """A new id: a random UUID (version 4), as Celery's task ids are.

    Implemented here because `uuid.uuid4` takes 3 us, which is noticeable in bulk submits.
    """
    raw = urandom(16).hex()
    variant = "89ab"[int(raw[16], 16) & 3]
    return f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-{variant}{raw[17:20]}-{raw[20:]}"


EVENT_OF_STATE: Mapping[str, str] = {
    "succeeded": "job.succeeded",
    "failed": "job.failed",
    "canceled": "job.canceled",
    "expired": "job.expired",
    "dead": "job.dead",
}
"""How webhooks call a job's end, by its final state; `dead` is one that failed for good and can be
retried from the dead list."""

ENDS: Mapping[str, str] = {
    "finished": "succeeded",
    "model_failed": "failed",
    "canceled_waiting": "canceled",
    "canceled_leased": "canceled",
    "deadline_passed": "expired",
    "expired_at_reservation": "expired",
    "expired_unserved": "expired",
    "buried": "dead",
    "attempts_spent_at_start": "dead",
    "delivered_too_often": "dead",
    "too_large": "dead",
    "message_lost": "failed",
    "lane_dropped": "canceled",
    "shared_run": "succeeded",
    "follower_expired": "expired",
    "arrived_meanwhile": "succeeded",
    "cached": "succeeded",
}
"""Every way in which a job can end, and as what: each leaves one event."""


@dataclass(frozen=True, slots=True)
class CacheTicket:
    """The cache key of a job's result, under which identical jobs may share its run."""

    digest: str
    """The digest of all that the result depends on (common/jobs/cache_entry.py)."""
    model: str
    """The model that serves the lane, as last known to the front."""
    weights: str
    """The last known weights digest; a worker with other weights does not cache the result."""
    look: bool = True
    """Whether a cached result, or an identical job's run, may be the answer."""
    max_age_seconds: int | None = None
    """Maximum age of a cached result."""


@dataclass(frozen=True, slots=True)
class Job:
    """One inference request, before it is published."""

    model: str
    input: Any
    params: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=new_job_id)
    priority: int = 0
    """Celery priority 0-9; 0 is served first."""
    start_by_ms: int | None = None
    """Unix time in milliseconds after which the job must not start."""
    deadline_ms: int | None = None
    """Unix time in milliseconds after which the job must not publish a result either."""
    blob: bytes | None = None
    """A large input, stored beside the message under the blob key."""
    tenant: str = ""
    """The job's tenant; empty where no API key was required, and for Celery's own clients."""
    cache: CacheTicket | None = None
    """None where its result is neither cached nor shared."""
    traceparent: str = ""
    """The job's W3C trace context, valid; or empty."""
    input_url: str | None = None
    """The URL from which a worker fetches the input; `input` is then None and ignored.

    Never cached nor shared: the content at the URL may change.
    """
    limits: Limits = UNLIMITED
    """The tenant's limits, checked by the enqueue script."""
    labels: Mapping[str, str] | None = None
    """Short pairs by which its sender finds it again; they travel as Celery's stamps."""
    webhook: str = ""
    """Who is told of its end: a URL, an endpoint's id, or `*` for the tenant's endpoints that ask
    for it; empty for nobody."""
    sent_bytes: int = 0
    """About how many bytes it was sent as, so that calls with large jobs have fewer of them."""

    @property
    def expires_ms(self) -> int | None:
        """When the job expires if it has not started; the earlier of its two limits."""
        start_by, deadline = self.start_by_ms, self.deadline_ms
        if start_by is None or deadline is None:
            return deadline if start_by is None else start_by
        return min(start_by, deadline)
