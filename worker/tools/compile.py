"""Compiles a model's network to machine code of this processor, where that makes it faster.

AOTInductor compiles once, in a minute or so, what later loads in half a second without a
compiler. What is kept was compared with the network as it was, in results and in speed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from common.catalog import ModelSpec, load_catalog
from common.errors import ConfigurationError
from common.settings import Settings
from worker.devices.torch_import import finish_torch
from worker.models.agreement import Agreement, agreement_of
from worker.models.base import Model
from worker.models.compiled import CanBeCompiled, Compilable, refuse_graphs
from worker.models.lock_file import locked
from worker.models.new_folder import FULL, new_folder
from worker.models.samples import decoded, read_samples
from worker.models.tensors import refuse_nan
from worker.models.weights import find_weights
from worker.residency.compiled import NETWORK, CompiledNetworks, load_network
from worker.residency.loading import loader_for
from worker.tools.pace import compare, outputs_of
from worker.tools.report import Progress, Refused, Report, asked_tolerance

_TOLERANCE = 0.999
_BATCH = 8
_DEVICE = "cpu"


def run(arguments: dict[str, Any], settings: Settings, progress: Progress) -> Report:
    """arguments: model, samples, tolerance, threads, again. Raises ConfigurationError."""
    if threads := arguments.get("threads"):
        os.environ["OMP_NUM_THREADS"] = str(threads)
    spec = load_catalog(settings.catalog)[arguments["model"]]
    refuse_graphs(spec)
    compiler = _compiler()
    progress("loading", 0, 0)
    load = loader_for(_DEVICE, settings)
    eager = load(spec.model_copy(update={"compiled": False}))
    if not isinstance(eager, CanBeCompiled):
        raise ConfigurationError(
            f"{spec.name}: {spec.handler_path} has no compilable and use_compiled, so there is no "
            "network to compile; docs/faster-models.md says what they are"
        )
    wanted = eager.compilable()
    refuse_nan(wanted.network, spec)
    kept = CompiledNetworks(settings.state_dir)
    facts = kept.facts(spec, _DEVICE)
    place = kept.place(spec, facts)
    if place.exists() and not arguments.get("again"):
        raise ConfigurationError(
            f"{spec.name} is compiled already, for these weights and this machine ({place}); "
            "--again does it anew"
        )
    report = Report("compile", spec.name)
    report.tolerance = asked_tolerance(arguments, spec, _TOLERANCE)
    report.notes = [f"by {compiler}, for {facts['threads']} threads, torch {facts['torch']}"]
    values, source = _samples(spec, eager, arguments.get("samples"), settings.compile_samples)
    items = decoded(eager, values, source)
    with _alone(place.parent, spec.name), _scratch(place.parent) as folder:
        package = Path(folder) / NETWORK
        _compile(wanted, package, spec, progress)
        report.bytes_after = package.stat().st_size
        report.bytes_before = _bytes_of(spec)
        compiled = load(spec.model_copy(update={"compiled": False}))
        compiled.use_compiled(load_network(package))  # type: ignore[attr-defined]  # as eager's
        if not _is_good(report, eager, compiled, items, spec, progress):
            return report
        if place.exists():
            shutil.rmtree(place)
        with new_folder(place) as made:
            assert made is not None
            package.rename(made / NETWORK)
            kept.keep(made, facts, {"ratio": report.ratio, "agreement": report.agreement})
    report.made = str(place)
    report.notes.append(f"write `compiled: true` at models.{spec.name} of the catalog to have it")
    return report


def _compiler() -> str:
    wanted = os.environ.get("CXX", "g++")
    found = shutil.which(wanted)
    if found is None:
        raise ConfigurationError(
            f"there is no C++ compiler {wanted!r} here; install one (apt-get install g++), or "
            "serve the model uncompiled"
        )
    return found


@contextmanager
def _alone(parent: Path, model: str) -> Iterator[None]:
    parent.mkdir(parents=True, exist_ok=True)
    parent.chmod(0o700)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(parent / ".compiling.lock", wait=False))
        except BlockingIOError as exc:
            raise ConfigurationError(f"{model} is being compiled already; wait for that") from exc
        yield


def _scratch(parent: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder of our own, where the compiler's files lie too: nobody else's are compiled in.

    What a killed run left is removed.
    """
    for left in parent.glob(".compiling-*"):
        shutil.rmtree(left, ignore_errors=True)
    made = tempfile.TemporaryDirectory(prefix=".compiling-", dir=parent)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{made.name}/cache"
    return made


def _compile(wanted: Compilable, package: Path, spec: ModelSpec, progress: Progress) -> None:
    import torch

    finish_torch()
    from torch._inductor import aoti_compile_and_package

    try:
        with torch.no_grad():
            progress("exporting", 0, 0)
            exported = torch.export.export(
                wanted.network, wanted.example, dynamic_shapes=(*wanted.dynamic,)
            )
            progress("compiling, about a minute", 0, 0)
            aoti_compile_and_package(exported, package_path=str(package))
    except OSError:
        raise
    except Exception as exc:
        said = " ".join(str(exc).split())[:300]
        if any(os.strerror(one) in said for one in FULL):  # of the compiler's, no OSError of ours
            raise ConfigurationError(
                f"{package.parent} has no room for what is compiled; make room, and do it again"
            ) from exc
        raise ConfigurationError(f"{spec.name} cannot be compiled: {said}") from exc


def _samples(
    spec: ModelSpec, handler: Model, given: str | None, most: int
) -> tuple[list[Any], Path | None]:
    """Inputs, and where they were read."""
    path = given or spec.samples
    if path is not None:
        where = Path(path) if given else find_weights(path)
        return read_samples(where, spec.input, most), where
    example = spec.warm_up if spec.warm_up is not None else getattr(handler, "example", None)
    if example is None:
        raise ConfigurationError(
            f"{spec.name} has no inputs to compare results by; give --samples, a file or folder"
        )
    return [example() if callable(example) else example], None


def _is_good(
    report: Report,
    eager: Model,
    compiled: Model,
    items: Sequence[Any],
    spec: ModelSpec,
    progress: Progress,
) -> bool:
    """Whether it agrees and is faster; the figures go to the report."""
    found = _agreement(eager, compiled, items)
    report.measure, report.agreement, report.samples = found.measure, found.value, found.samples
    for size in sorted({1, min(spec.max_batch, _BATCH)}):
        batch = [items[index % len(items)] for index in range(size)]
        pace = compare(
            lambda batch=batch: outputs_of(eager, batch),  # type: ignore[misc]  # bound now
            lambda batch=batch: outputs_of(compiled, batch),  # type: ignore[misc]
            progress,
            doing=f"measuring batches of {size}",
        )
        report.ratio = round(pace.ratio, 3)
        report.rows.append(
            {
                "batch": size,
                "eager ms": round(pace.before_ms, 2),
                "compiled ms": round(pace.after_ms, 2),
                "ratio": report.ratio,
                "rounds": pace.rounds,
            }
        )
    assert report.ratio is not None
    assert report.tolerance is not None
    if found.value < report.tolerance:
        said = f"{found.measure} {found.value:.5f} is less than {report.tolerance}"
        report.refused.append(Refused("compiled network", f"{said}; serve it uncompiled"))
    elif report.ratio <= 1:
        said = f"{report.ratio:.2f}x, no faster than eager on this machine"
        report.refused.append(Refused("compiled network", f"{said}; serve it uncompiled"))
    return not report.refused


def _agreement(eager: Model, compiled: Model, items: Sequence[Any]) -> Agreement:
    results = [
        [handler.encode(out) for item in items for out in outputs_of(handler, [item])]
        for handler in (eager, compiled)
    ]
    return agreement_of(*results)


def _bytes_of(spec: ModelSpec) -> int | None:
    try:
        path = find_weights(spec.weights)
    except ConfigurationError:
        return None
    if path.is_file():
        return path.stat().st_size
    return sum(one.stat().st_size for one in path.glob("*.safetensors"))
