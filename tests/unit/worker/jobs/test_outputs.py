"""What `infer` may return, besides a list."""

from __future__ import annotations

from collections import UserList, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from common.errors import WrongOutputs
from worker.jobs.execution import Execution
from worker.jobs.steps import accept


def executions(count: int) -> list[Execution]:
    made = [Execution(b"", 1, 0, str(n), 0.0) for n in range(count)]
    for one in made:
        one.item = "item"
    return made


@pytest.mark.parametrize("kind", [list, tuple, deque, UserList, np.array])
def test_any_sequence_is_taken_in_order(kind: Callable[[Sequence[int]], Any]) -> None:
    batch = executions(3)
    accept(batch, kind([1, 2, 3]))
    assert [int(one.output) for one in batch] == [1, 2, 3]
    assert [one.item for one in batch] == [None] * 3


def test_an_array_has_a_row_for_each() -> None:
    batch = executions(2)
    accept(batch, np.eye(2))  # type: ignore[arg-type]
    assert [one.output.tolist() for one in batch] == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    "outputs", [{"a": 1, "b": 2}, "ab", b"ab", {1, 2}, None, [1], iter([1, 2]), memoryview(b"ab")]
)
def test_nothing_is_assigned_of_what_is_refused(outputs: Any) -> None:
    batch = executions(2)
    with pytest.raises(WrongOutputs, match="one"):
        accept(batch, outputs)
    assert [(one.item, one.output) for one in batch] == [("item", None)] * 2
