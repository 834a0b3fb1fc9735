"""Writes a handler's network as an ONNX file whose batch varies, and checks it against torch.

The graph is run by ONNX Runtime on made-up inputs of several sizes and on the model's own, before
the folder takes its name: a trace that fixed a size, or lost a branch, shows there.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models import load_handler
from worker.models.exportable import Export, Exportable, Feeds
from worker.models.facts import FACTS, GRAPH, Facts, content_digest, write_facts
from worker.models.new_folder import new_folder, writing
from worker.models.requirements import missing_package
from worker.models.samples import decoded
from worker.models.sessions import Session, open_session
from worker.models.tensors import refuse_nan
from worker.models.weights import find_weights, located

if TYPE_CHECKING:
    import torch

__all__ = ("LEAST_COSINE", "Exported", "export_to")

LEAST_COSINE = 0.9999
"""Least cosine of each row of each output with torch's; fp32 gives 1 up to the sixth decimal."""
_RANDOM_BATCHES = (1, 2, 5)
_IN_ONE_FILE_BYTES = 1_500_000_000
"""A protobuf ends at 2 GB; beyond this the tensors lie in a file beside the graph."""
_BESIDE = (".json", ".txt")
_NOT_BESIDE = (FACTS, "model.safetensors.index.json")


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export."""

    folder: Path
    bytes_after: int
    least_cosine: float
    samples: int
    """The model's own inputs among those that were compared."""


def export_to(
    target: Path, spec: ModelSpec, samples: Sequence[Any] = (), source: Path | None = None
) -> Exported | None:
    """Make the folder `target`; None where another process made it meanwhile.

    samples: inputs as `decode` takes them, read at `source`; the handler's example without any.
    Raises ConfigurationError with what to change.
    """
    with writing(target), new_folder(target) as folder:
        if folder is None:
            return None
        plain = {"precision": "fp32", "backend": "torch", "providers": ()}
        return _fill(folder, target, spec.model_copy(update=plain), (samples, source))


def _fill(
    folder: Path, target: Path, spec: ModelSpec, samples: tuple[Sequence[Any], Path | None]
) -> Exported:
    handler = load_handler(spec)
    if not isinstance(handler, Exportable):
        raise ConfigurationError(
            f"{spec.handler} cannot be exported: it has no `export`, which docs/models.md describes"
        )
    handler.load(spec, "cpu")
    export = handler.export()
    refuse_nan(export.network, spec)
    weights = find_weights(spec.weights) if located(spec.weights) is not None else None
    write_graph(export, folder / GRAPH, spec.name)
    for name, text in export.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    for path in _beside(weights):
        shutil.copyfile(path, folder / path.name)
    digest = content_digest(weights) if weights is not None else spec.weights
    ports = tuple(export.inputs), tuple(export.outputs)
    write_facts(folder, Facts(spec.handler, "onnx", "fp32", digest, *ports))
    values, source = samples
    items = decoded(handler, values or _examples(handler), source)
    least = _check(export, open_session(folder / GRAPH), items)
    size = sum(path.stat().st_size for path in folder.glob(f"{GRAPH}*"))
    return Exported(target, size, least, len(items))


def _examples(handler: Any) -> list[Any]:
    return [handler.example()] if callable(getattr(handler, "example", None)) else []


def _beside(weights: Path | None) -> Iterator[Path]:
    if weights is not None and weights.is_dir():
        for path in sorted(weights.iterdir()):
            if path.is_file() and path.suffix in _BESIDE and path.name not in _NOT_BESIDE:
                yield path


def write_graph(export: Export, path: Path, model: str) -> None:
    """Trace the network into this file. Raises ConfigurationError where it cannot be traced."""
    try:
        import onnx  # noqa: F401 - what follows needs both, and says so less plainly
        import onnxscript  # noqa: F401
        import torch
    except ImportError as exc:
        raise missing_package(model, exc) from exc
    feeds = export.random(2)
    values = tuple(torch.from_numpy(np.array(feeds[name])) for name in export.inputs)
    shapes = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in export.inputs.values())
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                export.network,
                values,
                dynamo=True,
                verbose=False,
                input_names=list(export.inputs),
                output_names=list(export.outputs),
                dynamic_shapes=shapes,
            )
    except Exception as exc:
        said = str(exc).strip().partition("\n")[0]
        raise ConfigurationError(
            f"models.{model}: torch cannot export its network: {said}; write what `export` returns "
            "without branches on values"
        ) from exc
    assert program is not None
    program.save(path, external_data=_bytes_of(export.network) > _IN_ONE_FILE_BYTES)


def _bytes_of(network: torch.nn.Module) -> int:
    tensors = (*network.parameters(), *network.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _check(export: Export, session: Session, items: Sequence[Any]) -> float:
    """The least cosine of any row with torch's. Raises ConfigurationError below LEAST_COSINE."""
    names = {port.name for port in session.inputs}
    if names != set(export.inputs) or [one.name for one in session.outputs] != [*export.outputs]:
        raise ConfigurationError(
            f"the graph has inputs {sorted(names)} and outputs "
            f"{[one.name for one in session.outputs]}, not {sorted(export.inputs)} and "
            f"{[*export.outputs]}; an input that nothing uses is left out of a graph"
        )
    batches = [export.random(count) for count in _RANDOM_BATCHES]
    batches += [export.feeds(items)] if items else []
    batches += [export.feeds([item]) for item in items[: _RANDOM_BATCHES[-1]]]
    least = 1.0
    for feeds in batches:
        for name, want, found in zip(
            export.outputs, _by_torch(export, feeds), session.run(feeds), strict=True
        ):
            least = min(least, _least_cosine(name, want, found))
    if not least >= LEAST_COSINE:
        raise ConfigurationError(
            f"the graph's results are not torch's: cosine {least:.5f}, at least {LEAST_COSINE}"
        )
    return least


def _by_torch(export: Export, feeds: Feeds) -> list[NDArray[Any]]:
    import torch

    with torch.inference_mode():
        found = export.network(*(torch.from_numpy(feeds[name]) for name in export.inputs))
    tensors = found if isinstance(found, tuple | list) else (found,)
    return [tensor.numpy() for tensor in tensors]


def _least_cosine(name: str, want: NDArray[Any], found: NDArray[Any]) -> float:
    if want.shape != found.shape:
        raise ConfigurationError(
            f"the graph's output {name} is {found.shape} where torch's is {want.shape}; "
            "a size was fixed in the trace"
        )
    rows = [array.reshape(len(array), -1).astype(np.float64) for array in (want, found)]
    norms = np.linalg.norm(rows[0], axis=1) * np.linalg.norm(rows[1], axis=1)
    products = (rows[0] * rows[1]).sum(axis=1)
    same = (rows[0] == rows[1]).all(axis=1)
    cosines = np.where(same, 1.0, products / np.maximum(norms, np.finfo(np.float64).tiny))
    return float(np.nan_to_num(cosines, nan=-1.0).min())
