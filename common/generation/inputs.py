"""Checks the input of a generation job as far as that needs no tokenizer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from common.catalog import ModelSpec
from common.errors import InvalidInput
from common.generation.options import GenerateOptions, read_options

TASK: Final = "generate"
_FORMS = (
    'send a text, {"prompt": text or a list of token ids}, or {"messages": [{"role": ..., '
    '"content": ...}]}'
)


def options_of(spec: ModelSpec, params: Mapping[str, Any]) -> GenerateOptions | None:
    """The options of a job for this model; None where it generates nothing.

    Raises InvalidOption.
    """
    return read_options(params) if spec.task == TASK else None


def check_prompt(value: Any) -> None:
    """Raise InvalidInput for what is no prompt."""
    if isinstance(value, str):
        return
    if not isinstance(value, dict) or len(value) != 1:
        raise InvalidInput(f"input: {_FORMS}")
    name, held = next(iter(value.items()))
    if name == "prompt" and (isinstance(held, str) or _is_list_of(held, int)):
        return
    if name == "messages" and _is_list_of(held, dict) and held:
        return
    raise InvalidInput(f"input: {_FORMS}")


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, kind) and not isinstance(one, bool) for one in value
    )
