"""Maps an error of a batch to a decision for its jobs. Pure: a table in code.

An exception from a batch does not identify the job that caused it, so a batch of more than
one job is split and each half is run; only a job that fails alone has caused the failure.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, NamedTuple

from common.errors import DeviceOutOfMemory, FleetError, name_of, text_of

MAX_DELAY_MS = 60_000


class Retries(NamedTuple):
    """How often a job is tried, and the delay before its second try."""

    max_attempts: int
    base_delay_ms: float = 1_000


@dataclass(frozen=True, slots=True)
class Decision:
    """The action for a batch: split it, or retry, fail or bury its only job."""

    action: Literal["split", "retry", "fail", "dead"]
    delay_ms: int = 0
    shrink_to: int | None = None
    """New cap on the lane's batch size, when the device ran out of memory."""
    too_large_alone: bool = False
    """Whether the device ran out of memory on one job: no cap would have helped."""


def decide(error: BaseException, size: int, attempt: int, retries: Retries) -> Decision:
    """Decide on an error of a batch of `size` jobs; attempt counts from 1."""
    no_memory = out_of_memory(error)
    if size > 1:
        return Decision("split", shrink_to=size // 2 if no_memory else None)
    if _is_final(error):
        return Decision("fail", too_large_alone=no_memory)
    if attempt >= retries.max_attempts:
        return Decision("dead", too_large_alone=no_memory)
    delay_ms = backoff_ms(attempt, retries.base_delay_ms)
    return Decision("retry", delay_ms=delay_ms, too_large_alone=no_memory)


def _is_final(error: BaseException) -> bool:
    if not issubclass(type(error), FleetError):
        return False
    try:
        return not error.retryable  # type: ignore[attr-defined]  # it is a FleetError
    except BaseException:  # noqa: BLE001 - a class of the model's own may be anything
        return False


def backoff_ms(attempt: int, base_delay_ms: float) -> int:
    """Delay before the next attempt: doubling, capped, with up to a quarter of jitter."""
    delay = min(base_delay_ms * 2 ** (attempt - 1), MAX_DELAY_MS)
    return int(delay * random.uniform(1.0, 1.25))  # noqa: S311 - spreads load, guards nothing


def out_of_memory(error: BaseException) -> bool:
    """Whether the device ran out of memory; torch names the class, ONNX Runtime a message."""
    if issubclass(type(error), (DeviceOutOfMemory, MemoryError)):
        return True
    if name_of(error) == "OutOfMemoryError":
        return True
    text = text_of(error).lower()
    return "out of memory" in text or "failed to allocate memory" in text
