"""What a model may say of its items, whatever its author made of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from common.catalog import ModelSpec
from worker.jobs.execution import Execution
from worker.jobs.steps import decode


class Says:
    """Takes anything; answers this when asked what it costs."""

    def __init__(self, cost: object) -> None:
        self._cost = cost

    def decode(self, value: Any, _params: Any) -> Any:
        return value

    def cost(self, _item: Any) -> Any:
        return self._cost


def decoded(handler: Any) -> Execution:
    execution = Execution(b"one:1", 1, 0, "one", 0.0)
    execution.value = "x"
    decode(execution, ModelSpec(name="m", handler="echo", input="json"), handler)
    return execution


@pytest.mark.parametrize("cost", [1, True, Decimal(1), 1.0])
def test_any_number_is_a_cost_that_can_be_summed(cost: object) -> None:
    execution = decoded(Says(cost))
    assert execution.disposition is None
    assert type(execution.cost) is float


@pytest.mark.parametrize(
    "cost",
    [pytest.param(10**400, id="beyond-floats"), -1, float("nan"), float("inf"), None, "many", 1j],
)
def test_a_cost_that_is_no_number_fails_its_own_job(cost: object) -> None:
    """Once it is among the others of its lane, it would take the worker down with them."""
    assert decoded(Says(cost)).disposition == "failed"


def test_an_exit_fails_its_own_job() -> None:
    class Exits(Says):
        def decode(self, value: Any, _params: Any) -> Any:
            raise SystemExit(value)

    execution = decoded(Exits(1))
    assert (execution.disposition, execution.step) == ("failed", "decode")
