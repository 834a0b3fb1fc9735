"""One leased job inside the worker, and its disposition.

Every step takes one `Execution`; the first that sets its disposition ends it, and later
steps skip it. One table, in worker/pipeline/endings.py, maps each disposition to the
transition of the lease.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from common.errors import (
    FleetError,
    InvalidInput,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
    name_of,
    text_of,
)
from worker.jobs.next_steps import NextSteps
from worker.jobs.passage import Passage
from worker.jobs.served import Served
from worker.models.base import Model

Step = Literal["parse", "decode", "cost", "infer", "encode"]

_MAX_TEXT = 2_000
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Retry:
    """The job is delayed and tried again: at its ETA, or after a failure.

    The attempt counts only after a failure.
    """

    at_ms: int = 0
    """Unix milliseconds; 0 where `after_ms` is used."""
    after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """The job is delayed because its input cannot be read now. This counts against neither the job
    nor the model.
    """

    after_ms: int


Disposition = (
    Literal["succeeded", "failed", "expired", "canceled", "unreadable", "lost"] | Retry | Hold
)
"""How a job leaves this worker. `lost`: its lease is held elsewhere, or left to expire."""


@dataclass(slots=True)
class Said:
    """What one choice of a generation has said, as its stream tells."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish: str = ""
    """Empty while it goes on."""


@dataclass(eq=False)
class Execution:
    """One leased job inside the worker. Times are seconds on the steady clock.

    Without slots, so that fields that most jobs never set cost nothing to create.
    """

    tag: bytes
    attempt: int
    created_ms: int
    job_id: str
    arrived: float
    tenant: str = ""
    value: Any = None
    params: Mapping[str, Any] = field(default_factory=dict)
    digest: str = field(default="", init=False)
    """The key under which its result may be cached and its run shared; empty where neither may."""
    weights: str = field(default="", init=False)
    """The weights digest that the model must have for the result to be cached."""
    result: bytes = field(default=b"", init=False)
    """JSON, when it may be kept."""
    call: str = field(default="", init=False)
    """A digest of what was sent, where a Celery client chose the id; a copy has the same."""
    key: str | None = field(default=None, init=False)
    """Equal for equal inputs, which run once; None where each must run."""
    handler: Model | None = field(default=None, init=False)
    """The handler that decoded it and must run it: its alias may have moved meanwhile."""
    version: str = field(default="", init=False)
    served: Served | None = field(default=None, init=False)
    """The model that was picked for it; None where its lane has one only."""
    kept: Any = field(default=None, init=False)
    """Its input as it was, for a shadow; None for most."""
    answer: bytes = field(default=b"", init=False)
    """Its result as JSON, where its input is kept."""
    reserved_ms: int = field(default=0, init=False)
    """When it was reserved, Unix milliseconds of the Redis server."""
    has_blob: bool = field(default=False, init=False)
    blob: bytes | None = field(default=None, init=False)
    stored: bool = field(default=False, init=False)
    """Whether the input is stored in LANEFLEET_BLOB_URL."""
    input_url: str | None = field(default=None, init=False)
    expires_at: float | None = field(default=None, init=False)
    """Unix seconds after which the job must not run."""
    deadline: float | None = field(default=None, init=False)
    """Unix seconds after which no result may be published."""
    eta: float | None = field(default=None, init=False)
    """Unix seconds before which the job must not run."""
    time_limits: tuple[float | None, float | None] | None = field(default=None, init=False)
    """Seconds that its run may take, hard and soft; None for most."""
    stamps: Mapping[str, Any] | None = field(default=None, init=False)
    """What its Celery client stamped it with, to revoke it by; None for most."""
    ignore_result: bool = field(default=False, init=False)
    """Whether its client wants no result kept."""
    passage: Passage | None = field(default=None, init=False)
    """The times of the chunk in which it was decoded."""
    started: float = field(default=0.0, init=False)
    said: Mapping[int, Said] | None = field(default=None, init=False)
    """By choice, what another worker has said of its answer; None for most."""
    said_entries: int = field(default=0, init=False)
    """The number of the last entry of its stream."""
    lost_at_step: int = field(default=-1, init=False)
    """How many steps its lane had done when its lease was lost."""
    next_steps: NextSteps | None = field(default=None, init=False)
    """What it leads to in Celery's canvas; None for most."""
    lineage: bytes = field(default=b"", init=False)
    """What its result says of that (next_steps.py); empty for most."""
    traceparent: str = field(default="", init=False)
    """The W3C trace that it belongs to; empty for most."""
    announced: bool = field(default=False, init=False)
    """Whether Celery's events told of its beginning. Written on the loop's thread."""
    item: Any = field(default=None, init=False)
    cost: float = field(default=1.0, init=False)
    output: Any = field(default=None, init=False)
    disposition: Disposition | None = field(default=None, init=False)
    """None until the job has ended here."""
    step: Step = field(default="parse", init=False)
    error: BaseException | None = field(default=None, init=False)
    meta: bytes = field(default=b"", init=False)

    @property
    def suspect(self) -> bool:
        """Whether the job has been tried before; then it runs alone."""
        return self.attempt > 1

    def fail(self, step: Step, error: BaseException) -> None:
        """End as failed in this step, unless it has ended already."""
        if self.disposition is None:
            self.disposition, self.step, self.error = "failed", step, error


def describe(execution: Execution) -> str:
    """One sentence about the error, for the job's owner."""
    error, text = execution.error, text_of(execution.error)
    if issubclass(type(error), FleetError):
        return text[:_MAX_TEXT]
    return f"{execution.step} failed: {name_of(error)}: {text[:500]}"


def reason_of(execution: Execution) -> str:
    """The stable, machine-readable reason of the failure."""
    error = execution.error
    if issubclass(type(error), FleetError):
        with contextlib.suppress(BaseException):  # a class of the model's own may be anything
            code = error.code  # type: ignore[union-attr]  # it is a FleetError
            if type(code) is str and _CODE.fullmatch(code):
                return code
    return f"{execution.step}_failed"


def module_of(error: BaseException | None) -> str:
    """Where a Celery client looks for the class of this error."""
    for kind in (TimeLimitExceeded, FleetError):
        if issubclass(type(error), kind):
            return kind.celery_module
    return FleetError.celery_module


def model_is_to_blame(execution: Execution) -> bool:
    """Whether a job that failed for good did so after the model took its input."""
    theirs = issubclass(type(execution.error), (InvalidInput, TimeLimitExceeded))
    return execution.step in ("infer", "encode") and not theirs


def judge_time(execution: Execution, seconds: float) -> None:
    """End it as failed where its run took longer than its client allows.

    A batch cannot be interrupted, so it is known only now.
    """
    hard, soft = execution.time_limits or (None, None)
    if hard and seconds > hard:
        limit, name = hard, "time_limit"
        error: type[TimeLimitExceeded] = TimeLimitExceeded
    elif soft and seconds > soft:
        limit, name = soft, "soft_time_limit"
        error = SoftTimeLimitExceeded
    else:
        return
    execution.fail("infer", error(f"it ran for {seconds:.3g} s; its {name} is {limit:g} s"))
