"""The table of what an error means for the jobs of its batch."""

from __future__ import annotations

import pytest

from common.errors import DeviceOutOfMemory, InferenceFailed, InvalidInput
from worker.pipeline.error_policy import (
    MAX_DELAY_MS,
    Decision,
    Retries,
    backoff_ms,
    decide,
    out_of_memory,
)

OURS, THEIRS = InferenceFailed("it broke"), ValueError("it broke")


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


NO_MEMORY = [
    DeviceOutOfMemory("8 GB"),
    MemoryError(),
    OutOfMemoryError(),
    RuntimeError("CUDA out of memory. Tried to allocate 2 MiB"),
    RuntimeError("Failed to allocate memory for requested buffer"),
]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_a_device_that_is_full_is_known_by_many_names(error: BaseException) -> None:
    assert out_of_memory(error)
    assert decide(error, 9, 1, Retries(3)) == Decision("split", shrink_to=4)
    assert decide(error, 2, 1, Retries(3)) == Decision("split", shrink_to=1)
    assert decide(error, 1, 1, Retries(3)).too_large_alone
    assert decide(error, 1, 3, Retries(3)) == Decision("dead", too_large_alone=True)


@pytest.mark.parametrize("error", [OURS, THEIRS, InvalidInput("no")])
def test_a_batch_of_several_is_split_whatever_it_was(error: BaseException) -> None:
    assert not out_of_memory(error)
    assert decide(error, 2, 3, Retries(3)) == Decision("split")


@pytest.mark.parametrize("error", [OURS, THEIRS])
@pytest.mark.parametrize(
    ("attempt", "most", "action"),
    [(1, 3, "retry"), (2, 3, "retry"), (3, 3, "dead"), (4, 3, "dead"), (1, 1, "dead")],
)
def test_a_job_alone_is_tried_as_often_as_allowed(
    error: BaseException, attempt: int, most: int, action: str
) -> None:
    decision = decide(error, 1, attempt, Retries(most))
    assert (decision.action, decision.too_large_alone) == (action, False)
    assert (decision.delay_ms > 0) == (action == "retry")


def test_the_inputs_own_fault_is_not_tried_again() -> None:
    assert decide(InvalidInput("no"), 1, 1, Retries(3)) == Decision("fail")


@pytest.mark.parametrize(
    ("base_ms", "attempt", "seconds"),
    [
        *((1000, 1, 1), (1000, 2, 2), (1000, 3, 4), (1000, 6, 32), (1000, 7, 60), (1000, 50, 60)),
        *((500, 1, 0.5), (500, 3, 2), (60_000, 1, 60), (60_000, 2, 60)),
    ],
)
def test_the_delay_doubles_from_its_base_up_to_a_minute_with_a_quarter_of_jitter(
    base_ms: float, attempt: int, seconds: float
) -> None:
    delays = [backoff_ms(attempt, base_ms) for _ in range(200)]
    assert seconds * 1000 <= min(delays) <= max(delays) <= seconds * 1250
    assert len(set(delays)) > 10
    assert max(delays) <= MAX_DELAY_MS * 1.25


def test_a_base_of_zero_tries_again_at_once() -> None:
    assert decide(OURS, 1, 2, Retries(3, 0)) == Decision("retry", delay_ms=0)
