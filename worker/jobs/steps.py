"""The steps of a job inside the worker: `parse -> decode -> infer -> encode` over one Execution.

`parse` is in message.py and `encode` in encoding.py.

Each step skips an execution that has ended, so a batch in which some failed takes the same
calls as one in which none did. The job's error names the step that raised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from common.catalog import ModelSpec
from common.errors import InferenceFailed, WrongOutputs
from common.inputs.checks import materialize
from worker.guard.raised import RAISED
from worker.jobs.execution import Execution, Step
from worker.models.base import Model
from worker.models.generator import Prompt
from worker.transfer import Later


def decode(execution: Execution, spec: ModelSpec, handler: Model) -> None:
    """Decode the input into an item and its cost."""
    if execution.disposition is not None:
        return
    step: Step = "decode"
    try:
        value = materialize(spec.input, execution.value, execution.blob)
        execution.handler, execution.version = handler, spec.version
        execution.item = handler.decode(value, execution.params)
        step = "cost"
        execution.cost = cost = float(handler.cost(execution.item))
        if not 0 <= cost < math.inf:
            raise InferenceFailed(f"the model says that this input costs {cost}")
    except BaseException as exc:  # noqa: BLE001 - even an exit: a thread that decodes would end
        execution.fail(step, exc)
        RAISED.note(spec.name, step, exc, handler=handler, job_id=ascii(execution.job_id))
    execution.value = execution.blob = None


def require_prompt(execution: Execution) -> None:
    """Fail a generator's job whose `decode` returned something else than a prompt."""
    item = execution.item
    if execution.disposition is None and not isinstance(item, Prompt):
        text = f"`decode` returned a {type(item).__name__}; a generator's must return a Prompt"
        execution.fail("decode", WrongOutputs(text))


def infer(executions: Sequence[Execution], handler: Model) -> None:
    """Run one batch to its end; raises what the model raises. No execution may have ended."""
    outputs = launch(executions, handler)
    accept(executions, outputs.wait() if isinstance(outputs, Later) else outputs)


def launch(executions: Sequence[Execution], handler: Model) -> Sequence[Any] | Later:
    """Start one batch; returns its outputs, or a Later that gives them when the device is done."""
    return handler.infer([execution.item for execution in executions])


def accept(executions: Sequence[Execution], outputs: Sequence[Any]) -> None:
    """Assign the outputs of a batch; raises WrongOutputs unless there is one for each execution.

    Nothing is assigned then: the batch is split, and its parts run again.
    """
    if type(outputs) is not list and type(outputs) is not tuple:
        outputs = _as_list(outputs, len(executions))
    if len(outputs) != len(executions):
        raise WrongOutputs(
            f"the model returned {len(outputs)} outputs for {len(executions)} items; `infer` must "
            "return one for each item, in order"
        )
    for execution, output in zip(executions, outputs, strict=True):
        execution.output = output
        execution.item = None


def _as_list(outputs: Any, count: int) -> list[Any]:
    """The outputs of a sequence that is no list, such as an array with a row for each item.

    A mapping gives its keys when it is iterated, text its characters, a set any order, and a
    table (a DataFrame) its columns' names: all of the right number, now and then.
    """
    characters = isinstance(outputs, str | bytes | bytearray | memoryview)
    sequence = isinstance(outputs, Sequence) and not characters
    array = (
        not characters and len(getattr(outputs, "shape", ())) > 0 and not hasattr(outputs, "keys")
    )
    if not (sequence or array):
        raise WrongOutputs(
            f"`infer` returned a {type(outputs).__name__}; it must return a list, or another "
            f"sequence, with one output for each of its {count} items, in order"
        )
    return list(outputs)


def share_outputs(runs: Sequence[Sequence[Execution]]) -> None:
    """Copy the output of the first of each run to the others, whose input is the same."""
    for first, *others in runs:
        for execution in others:
            execution.output = first.output
            execution.item = None
