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
from common.errors import InferenceFailed
from common.inputs.checks import materialize
from worker.jobs.execution import Execution
from worker.models.base import Model
from worker.transfer import Later


def decode(execution: Execution, spec: ModelSpec, handler: Model) -> None:
    """Decode the input into an item and its cost."""
    if execution.disposition is not None:
        return
    try:
        value = materialize(spec.input, execution.value, execution.blob)
        execution.handler, execution.version = handler, spec.version
        execution.item = handler.decode(value, execution.params)
        execution.cost = cost = handler.cost(execution.item)
        if not 0 <= cost < math.inf:
            raise InferenceFailed(f"the model says that this input costs {cost}")
    except Exception as exc:  # noqa: BLE001 - whatever a handler raises is this job's error
        execution.fail("decode", exc)
    execution.value = execution.blob = None


def infer(executions: Sequence[Execution], handler: Model) -> None:
    """Run one batch to its end; raises what the model raises. No execution may have ended."""
    outputs = launch(executions, handler)
    accept(executions, outputs.wait() if isinstance(outputs, Later) else outputs)


def launch(executions: Sequence[Execution], handler: Model) -> Sequence[Any] | Later:
    """Start one batch; returns its outputs, or a Later that gives them when the device is done."""
    return handler.infer([execution.item for execution in executions])


def accept(executions: Sequence[Execution], outputs: Sequence[Any]) -> None:
    """Assign the outputs of a batch; raises unless there is one for each execution."""
    if len(outputs) != len(executions):
        raise InferenceFailed(
            f"the model returned {len(outputs)} outputs for {len(executions)} items"
        )
    for execution, output in zip(executions, outputs, strict=True):
        execution.output = output
        execution.item = None


def share_outputs(runs: Sequence[Sequence[Execution]]) -> None:
    """Copy the output of the first of each run to the others, whose input is the same."""
    for first, *others in runs:
        for execution in others:
            execution.output = first.output
            execution.item = None
