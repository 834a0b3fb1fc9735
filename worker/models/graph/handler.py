"""Runs any ONNX file for the catalog's `handler: onnx`, on the backend that it names.

What goes in and what comes out is said in `options:`, and held against the file at load. A group
of items runs together only where none can change another's result; a file with a fixed batch runs
one item at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from common.catalog import ModelSpec
from common.errors import ConfigurationError, InferenceFailed
from worker.models.base import Json
from worker.models.facts import GRAPH
from worker.models.graph.inputs import Arrays, Item, Pictures, Prepared, Texts
from worker.models.graph.options import GraphOptions, only, read_options
from worker.models.graph.results import Row, labels_of, result_of
from worker.models.params import read_integer, refuse_unknown
from worker.models.requirements import missing_package
from worker.models.sessions import Session, check_ports, session_for
from worker.models.weights import find_weights

__all__ = ("OnnxGraph",)

MAX_TOP_K = 1000
_DTYPES = [
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
]


@dataclass(frozen=True, slots=True)
class Answer:
    """One item's part of each output."""

    row: Row
    item: Item


class OnnxGraph:
    """One input a job: a picture, a text, or an object of arrays."""

    pads = False
    """Texts run in groups of like lengths, all else in groups of equal shapes."""

    def __init__(self) -> None:
        self.backend = "onnx"
        self._session: Session | None = None
        self._path = Path()
        self._prepared: Prepared | None = None
        self._options = GraphOptions()
        self._outputs: tuple[str, ...] = ()
        self._output = ""
        self._labels: Mapping[int, str] = {}
        self._most = 0
        """Items in one run; 0 is any number."""

    def load(self, spec: ModelSpec, device: str) -> None:
        """Open the file, and hold its inputs and outputs against the options."""
        found = find_weights(spec.weights)
        folder, self._path = (found, found / GRAPH) if found.is_dir() else (found.parent, found)
        options = self._options = read_options(spec)
        longest = options.text.max_tokens if spec.input == "text" else None
        session = self._session = session_for(spec, self._path, device, longest=longest)
        self.backend = session.backend
        self._prepared = _prepared(spec, options, session, folder)
        outputs = options.outputs or tuple(port.name for port in session.outputs)
        check_ports(spec.name, self._path, session, self._prepared.names, outputs)
        _check_dtypes(spec.name, self._path, session)
        self._outputs = outputs
        if options.result.kind != "raw":
            self._output = only(spec.name, options, outputs)
        self._labels = labels_of(spec.name, options.result, folder)
        fixed = [port.shape[0] for port in session.inputs if port.shape and port.shape[0]]
        if any(batch != 1 for batch in fixed):
            raise ConfigurationError(
                f"models.{spec.name}: {self._path} takes batches of {max(fixed)} only; make it "
                "again with a first axis that varies, or of 1"
            )
        self._most = 1 if fixed else 0

    def decode(self, value: Any, params: Mapping[str, Any]) -> Item:
        """The input as arrays; `top_k` where the result is labels."""
        assert self._prepared is not None
        if self._options.result.kind != "labels":
            refuse_unknown(params, ())
            return self._prepared.item(value)
        refuse_unknown(params, ("top_k",))
        top_k = read_integer(params, "top_k", self._options.result.top_k, 1, MAX_TOP_K)
        return replace(self._prepared.item(value), top_k=top_k)

    def cost(self, item: Item) -> float:
        """Pixels times channels, tokens, or numbers."""
        assert self._prepared is not None
        return self._prepared.cost(item)

    def infer(self, items: Sequence[Item]) -> Sequence[Answer]:
        """Run the groups."""
        assert self._prepared is not None
        answers: dict[int, Answer] = {}
        for group in self._prepared.groups(items):
            step = self._most or len(group)
            for first in range(0, len(group), step):
                part = group[first : first + step]
                rows = self._run([items[index] for index in part])
                for index, row in zip(part, rows, strict=True):
                    answers[index] = Answer(row, items[index])
        return [answers[index] for index in range(len(items))]

    def _run(self, items: Sequence[Item]) -> list[dict[str, NDArray[Any]]]:
        assert self._session is not None
        assert self._prepared is not None
        feeds = self._prepared.feeds(items)
        found = {
            port.name: (port, array)
            for port, array in zip(self._session.outputs, self._session.run(feeds), strict=True)
        }
        rows: list[dict[str, NDArray[Any]]] = [{} for _ in items]
        for name in self._outputs:
            port, array = found[name]
            if array.ndim == 0 or len(array) != len(items):
                raise InferenceFailed(
                    f"{self._path}: the output {port} came as {list(array.shape)} for "
                    f"{len(items)} inputs; its first axis must be the batch's"
                )
            varies = len(port.shape) > 1 and port.shape[1] is None
            longest = max(len(item.ids) for item in items)
            for row, one, item in zip(rows, array, items, strict=True):
                # What was padded is nobody's.
                padded = bool(item.ids) and varies and len(one) == longest
                row[name] = one[: len(item.ids)] if padded else one
        return rows

    def encode(self, output: Answer) -> Json:
        """`labels`, `embedding`, or every output by its name."""
        options = self._options.result
        return result_of(output.row, output.item, options, self._output, self._labels)

    def example(self) -> Any:
        """A small input, to warm up with."""
        assert self._prepared is not None
        return self._prepared.example()


def _prepared(spec: ModelSpec, options: GraphOptions, session: Session, folder: Path) -> Prepared:
    dtypes = {port.name: port.dtype for port in session.inputs}
    if spec.input == "image":
        return Pictures(options.image, dtypes.get(options.image.name, "float32"))
    if spec.input == "text":
        try:
            return Texts(spec.name, options.text, folder, dtypes.get(options.text.ids, "int64"))
        except ImportError as exc:
            raise missing_package(spec.name, exc) from exc
    if spec.input != "json":
        raise ConfigurationError(
            f"models.{spec.name}.input: the handler onnx takes image, text or json"
        )
    names = options.inputs or tuple(dtypes)
    check_ports(spec.name, Path(spec.weights), session, names, ())
    by_name = {port.name: port for port in session.inputs}
    return Arrays([by_name[name] for name in names], options.max_elements)


def _check_dtypes(model: str, path: Path, session: Session) -> None:
    for port in session.inputs:
        if port.dtype not in _DTYPES:
            raise ConfigurationError(
                f"models.{model}: {path} takes {port}, which JSON and numpy have not; make it "
                "again with numbers of another type"
            )
