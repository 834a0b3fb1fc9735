"""Opens the network of a model of the catalog, to be made smaller or taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.base import Model
from worker.models.exportable import Exportable
from worker.models.samples import decoded, split
from worker.models.tensors import refuse_nan
from worker.tools.pruning.subject import Subject
from worker.tools.training.models import read_inputs

__all__ = ("Inputs", "inputs_of", "open_subject")

Parts = tuple[Sequence[Any], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Inputs:
    """To learn from, and to judge by; encoded, and decoded for `infer`."""

    values: Parts
    items: Parts


def inputs_of(
    data: str, spec: ModelSpec, handler: Model, most: int, held_out: float = 0.2
) -> Inputs:
    """Of a folder or file. Raises ConfigurationError."""
    values = split(read_inputs(data, spec, most), held_out)
    return Inputs(values, (decoded(handler, values[0], data), decoded(handler, values[1], data)))


def open_subject(spec: ModelSpec, whole: Model, inputs: Inputs, verb: str) -> Subject:
    """verb: for the sentence. Raises ConfigurationError for other handlers, and NaN weights."""
    subject = _subject(spec, whole, inputs, verb)
    refuse_nan(subject.network, spec)
    return subject


def _subject(spec: ModelSpec, whole: Model, inputs: Inputs, verb: str) -> Subject:
    if spec.handler == "minilm":
        from worker.tools.pruning.texts import TextSubject

        return TextSubject(spec, *inputs.items)
    if spec.handler == "resnet50":
        from worker.tools.pruning.pictures import PictureSubject

        return PictureSubject(spec, whole, inputs.values, inputs.items)
    if isinstance(whole, Exportable):
        from worker.tools.pruning.graphs import GraphSubject

        return GraphSubject(spec, whole.export(), inputs.items)
    raise ConfigurationError(
        f"{spec.name}: it cannot be {verb}: {spec.handler} has no `export`, which docs/models.md "
        "describes"
    )
