"""Creates the handler of a catalog entry on a device, and runs it for the first time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.catalog import BUILTIN_HANDLERS, ModelSpec
from common.jobs.result_document import dump_result
from common.settings import Settings
from worker.devices.torch_import import finish_torch
from worker.devices.torch_setup import prepare
from worker.jobs.execution import Execution
from worker.jobs.steps import infer
from worker.models import load_handler
from worker.models.base import Model
from worker.models.generator import Choice, Generated, Generator, is_generator
from worker.residency.compiled import CompiledNetworks

_WARM_TOKENS = 2
_MAX_WARM_STEPS = 10_000

_WITHOUT_SHAPE_RULES = frozenset(
    {"minilm", "echo", "text-detect", "onnx", "decoder", "openai-server"}
)
"""Built-in handlers that need no shapes without data, or no torch."""


def loader_for(device: str, settings: Settings) -> Callable[[ModelSpec], Model]:
    """A function that creates a handler and loads its weights; raises what the handler raises."""

    def load(spec: ModelSpec) -> Model:
        by_graph = spec.handler in BUILTIN_HANDLERS and spec.backend in ("onnx", "openvino")
        if spec.handler not in _WITHOUT_SHAPE_RULES and not by_graph:
            finish_torch()
        handler = load_handler(spec)
        # Before the load, so that a memory cap covers the weights; and after it, because a
        # module that is not imported yet cannot be configured.
        prepare(device, settings)
        handler.load(spec, device)
        prepare(device, settings)
        if spec.compiled:
            CompiledNetworks(settings.state_dir).take(handler, spec, device)
        return handler

    return load


def warm_up(handler: Model, example: Any, size: int) -> None:
    """Run an input alone and in a full batch, so that the first job pays no first-use cost."""
    if is_generator(handler):
        _warm_up_rows(handler, example, size)
        return
    for count in sorted({1, size}):
        executions = [Execution(b"", 1, 0, "warm-up", 0.0) for _ in range(count)]
        for execution in executions:
            execution.item = handler.decode(example, {})
            handler.cost(execution.item)
        infer(executions, handler)
        for execution in executions:
            dump_result(handler.encode(execution.output))


def _warm_up_rows(handler: Generator, example: Any, size: int) -> None:
    """The same with as many rows as there are slots, for a few tokens."""
    for count in sorted({1, min(size, handler.slots)}):
        prompt = handler.decode(example, {"max_tokens": _WARM_TOKENS, "temperature": 0})
        handler.cost(prompt)
        rows = [row for _ in range(count) for row in handler.admit(prompt)]
        text, choice = handler.text(prompt, 0), Choice()
        open_rows = set(rows)
        try:
            for _ in range(_MAX_WARM_STEPS):
                for one in handler.step():
                    if one.finish:
                        open_rows.discard(one.row)
                    if one.row == rows[0]:
                        choice.text += text.feed(one.token, one.finish).text
                        choice.tokens.append(one.token)
                        choice.finish = one.finish or ""
                if not open_rows:
                    break
        finally:
            for row in rows:
                handler.drop(row)
        dump_result(handler.encode(Generated(prompt, [choice])))
