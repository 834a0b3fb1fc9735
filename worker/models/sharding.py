"""Refuses a model that is to lie on several GPUs where its process sees one, or none.

A worker's process has one device. A model over several is a server's: it is told which GPUs are its
own, and divides the model itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from common.catalog import BUILTIN_HANDLERS, ModelSpec
from common.errors import ConfigurationError

__all__ = ("refuse_missing_gpus", "refuse_sharding")

_WORDS = ("device_map", "tensor_parallel", "pipeline_parallel", "num_gpus", "num_shard")
"""Beginnings of options by which libraries divide a model."""
_TENSOR = ("--tensor-parallel-size", "-tp", "--tp", "--tp-size", "--num-shard")
_PIPELINE = ("--pipeline-parallel-size", "-pp", "--pp", "--pp-size")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_REMEDY = "docs/generation-servers.md says how a server gets several"


def refuse_sharding(spec: ModelSpec) -> None:
    """Raise ConfigurationError where a built-in handler is asked to divide its model."""
    if spec.handler not in BUILTIN_HANDLERS:
        return
    for option in spec.options:
        if option.lower().replace("-", "_").startswith(_WORDS):
            raise ConfigurationError(
                f"models.{spec.name}.options.{option}: handler {spec.handler} runs on one device, "
                f"and does not divide a model; remove it, or use handler: openai-server ({_REMEDY})"
            )


def refuse_missing_gpus(
    model: str,
    command: Sequence[str],
    given: Mapping[str, str],
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Raise ConfigurationError where a server's command wants more GPUs than it will see.

    given: variables that the catalog adds to those of the process.
    """
    wanted = _value(command, _TENSOR) * _value(command, _PIPELINE)
    visible = given.get(_VISIBLE, environment.get(_VISIBLE))
    if visible is None or wanted < 2:
        return
    seen = len([one for one in visible.split(",") if one.strip()])
    if seen < wanted:
        raise ConfigurationError(
            f"models.{model}.options.command divides the model over {wanted} GPUs, and this worker "
            f"sees {seen}: name them in options.environment.{_VISIBLE} of a worker on the CPU, or "
            f"run the server elsewhere and give its `url` ({_REMEDY})"
        )


def _value(command: Sequence[str], names: Sequence[str]) -> int:
    """Of the last of these options; 1 where there is none, or no number."""
    found = 1
    for at, word in enumerate(command):
        name, equals, value = word.partition("=")
        if name in names:
            text = value if equals else next(iter(command[at + 1 : at + 2]), "")
            found = int(text) if text.isdecimal() else found
    return found
