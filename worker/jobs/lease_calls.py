"""The words of the scripts that only a worker calls, in the order of their headers.

A test compares each with the header of its script. Those that the front calls too are in
common/jobs/script_calls.py.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Flag = Literal["", "1"]
"""A boolean argument of a script: `1`, or empty."""
Failure = Literal["", "input", "model", "other"]
"""What caused a failure; empty where the job succeeded."""


class ReserveCall(NamedTuple):
    """The arguments of the reserve script."""

    lane: str
    wanted: int
    lease_ms: int
    tag_prefix: str
    worker: str
    result_ttl: int
    dead_max_count: int
    max_deliveries: int
    low_share: int
    first_low_band: int
    window: int
    most_bytes: int
    largest: int


class StartCall(NamedTuple):
    """The arguments of the start script."""

    lane: str
    tag: bytes
    job_id: str
    max_attempts: int
    result_ttl: int
    dead_max_count: int
    worker: str


class FinishCall(NamedTuple):
    """The first arguments of the finish script; those of each job follow."""

    result_ttl: int
    words: int
    """Number of arguments per job."""


class FinishedJob(NamedTuple):
    """The arguments of `finish` for one job. An empty string means that there is no value."""

    tag: bytes
    job_id: str
    meta: bytes
    """The result as Celery stores it: JSON."""
    tenant: str = ""
    flight: str = ""
    """The single-flight of which the job may be the leader."""
    reuse_ms: int | str = ""
    """How long after a success later identical jobs get its result; only with a flight."""
    failure: Failure = ""
    """What caused the failure, where the job failed."""
    has_blob: Flag = ""
    """Whether the job has an input under its blob key."""
    has_next: Flag = ""
    """Whether it has successors: Celery's callbacks, a chain or a chord."""


class LeadingJob(NamedTuple):
    """The arguments of `lead` for one job."""

    tag: bytes
    job_id: str
    next: bytes
    """NextSteps as JSON."""


class SaidJob(NamedTuple):
    """The arguments of `say` for one job."""

    tag: bytes
    job_id: str
    number: int
    """The entry's, from 1."""
    ttl_seconds: int
    said: bytes
    """JSON."""


class ReleasedJob(NamedTuple):
    """The arguments of `release` for one job."""

    tag: bytes
    job_id: str
    uncount: bool
    """Whether to uncount the attempt; otherwise the delivery is uncounted."""


class RetryJob(NamedTuple):
    """The arguments of `retry` for one job: delayed until `due_ms` (Unix) or by `delay_ms`."""

    tag: bytes
    job_id: str
    due_ms: int | str = ""
    delay_ms: int | str = ""
    error: str = ""
    """The error of the attempt that failed."""
    unread: Flag = ""
    """Whether the input store failed, which counts against neither the job nor the model."""
    uncount: Flag = ""
    """Whether to uncount the attempt."""


class BuryCall(NamedTuple):
    """The first arguments of the bury script; those of each dead letter follow."""

    lane: str
    result_ttl: int
    dead_max_count: int
    worker: str


class DeadLetter(NamedTuple):
    """The arguments of `bury` for one job; job_id is empty where none could be read."""

    tag: bytes
    job_id: str
    reason: str
    error: str
    attempts: int
    meta: bytes


class ReclaimCall(NamedTuple):
    """The arguments of the reclaim script."""

    lane: str
    tag_prefix: str
    """The prefix of the call whose reply was lost."""
    wanted: int
