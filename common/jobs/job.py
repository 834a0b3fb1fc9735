"""A job before it is published, and its id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import urandom
from typing import Any

from common.jobs.quota import UNLIMITED, Limits


def new_job_id() -> str:
    """A fresh id: a random UUID (version 4), as Celery's task ids are.

    Written out here because `uuid.uuid4` takes 3 us, which bulk submits feel.
    """
    raw = urandom(16).hex()
    variant = "89ab"[int(raw[16], 16) & 3]
    return f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-{variant}{raw[17:20]}-{raw[20:]}"


@dataclass(frozen=True, slots=True)
class CacheTicket:
    """Where a job's result may be kept, and with whom its run may be shared."""

    digest: str
    """Of all that the result depends on (common/jobs/cache_entry.py)."""
    model: str
    """The model that serves the lane, as far as is known."""
    weights: str
    """What was known of its weights; a worker that has others does not keep the result."""
    look: bool = True
    """Whether a kept result, or an identical job's run, will do."""
    max_age_seconds: int | None = None
    """How old a kept result may be."""


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
    """A large input that travels beside the message."""
    tenant: str = ""
    """Whose job it is; empty where no API key was asked for, and for Celery's own clients."""
    cache: CacheTicket | None = None
    """None where its result is neither kept nor shared."""
    traceparent: str = ""
    """The W3C trace that the job belongs to, valid; or empty."""
    input_url: str | None = None
    """Where a worker fetches the input from; then `input` is None and means nothing.

    Never cached nor shared: what lies there may change.
    """
    limits: Limits = UNLIMITED
    """What that tenant may do, checked where the job is published."""

    @property
    def expires_ms(self) -> int | None:
        """When the job expires if it has not started; the earlier of its two limits."""
        limits = [limit for limit in (self.start_by_ms, self.deadline_ms) if limit is not None]
        return min(limits) if limits else None
