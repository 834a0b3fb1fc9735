"""Quantizes a model to int8 as far as it still agrees with fp32, and faster than that.

What tunes and what judges are two halves of the samples: a layer is kept in fp32 for what the one
half shows, and the folder is made only if the other half, which no choice has seen, agrees and
the handler serves more items a second than before.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.catalog import ModelSpec, load_catalog
from common.errors import ConfigurationError
from common.settings import Settings
from worker.checking.verdicts import DEFAULT_TOLERANCES
from worker.models.base import Model
from worker.models.exportable import Exportable
from worker.models.exporting import export_to
from worker.models.facts import GRAPH, Facts, read_facts, write_facts
from worker.models.new_folder import new_folder, writing
from worker.models.requirements import missing_package
from worker.models.samples import decoded, read_samples, split
from worker.models.weights import find_weights, located
from worker.residency.loading import loader_for
from worker.tools.aware import plan_of, teach_int8
from worker.tools.quantizing.bounds import Bounds
from worker.tools.quantizing.folders import filled, scratch_of
from worker.tools.quantizing.graph import Calibration, Graph, Method
from worker.tools.quantizing.judging import Judge, Verdict
from worker.tools.quantizing.search import Found, Score, find_kept, units_of
from worker.tools.report import Progress, Refused, Report, asked_tolerance
from worker.tools.target import claimed, free_target

_MARGIN = 0.2
"""How much of what the tolerance leaves the search leaves: other samples are a little worse."""
_LEAST_SAMPLES = 16
_MINUTES = 3.0
_INPUTS = {"minilm": "text", "resnet50": "image", "classify": "image", "text-detect": "image"}
"""What folders of these handlers take; those of others take JSON."""
_SATURATES = 1.25
"""By how much int8 weights must be worse than uint8 to be taken for saturating."""


@dataclass(frozen=True, slots=True)
class _Source:
    """What is quantized."""

    spec: ModelSpec
    """That of the baseline, in fp32."""
    folder: Path
    """Holds its graph and the files that go with it."""
    handler: Model
    """The baseline, loaded."""
    method: Method


_Read = tuple[list[Any], Path]
"""Inputs, and where they were read."""


def run(arguments: dict[str, Any], settings: Settings, progress: Progress) -> Report:
    """arguments: source, target, samples, calibration, most, static, tolerance, per_channel,
    backends, aware, minutes.

    Raises ConfigurationError.
    """
    target = free_target(arguments["target"])
    with claimed(target), writing(target), scratch_of(target) as folder:
        return _run(arguments, settings, progress, target, folder)


def _run(
    arguments: dict[str, Any], settings: Settings, progress: Progress, target: Path, scratch: Path
) -> Report:
    progress("loading", 0, 0)
    try:
        import onnx  # noqa: F401 - what follows needs both, and says so less plainly
        import onnxruntime.quantization  # noqa: F401
    except ImportError as exc:
        raise missing_package(str(arguments["source"]), exc) from exc
    spec = _spec_of(arguments["source"], settings)
    (tuning, tuning_place), (held, held_place) = _samples(
        spec, arguments, settings.quantize_samples
    )
    source = _source(spec, arguments, settings, scratch)
    tuning = decoded(source.handler, tuning[: settings.quantize_tuning_samples], tuning_place)
    held = decoded(source.handler, held, held_place)
    taught = _taught(source, spec, arguments, scratch, progress)
    report = Report("quantize", spec.name)
    report.notes += taught
    load = loader_for("cpu", settings)
    judge = Judge(
        source.handler, load, source.spec, tuning, held, progress, settings.quantize_batch
    )
    usual = DEFAULT_TOLERANCES.get(judge.measure, 0.99)
    report.tolerance = asked_tolerance(arguments, spec, usual)
    calibration = _calibration(source, judge.tuning_items, settings)
    graph = Graph(source.folder / GRAPH, scratch, calibration)
    bounds = Bounds(settings, scratch, time.monotonic)
    report.bytes_before = (source.folder / GRAPH).stat().st_size
    best: tuple[Verdict, Path, Method, Found] | None = None
    for method in _methods(source.method, graph, judge, scratch, source.folder):
        made = scratch / f"made-{method.weights}"
        found = _search(graph, method, judge, made, source.folder, report, bounds)
        if found is None:
            continue
        for backend in arguments.get("backends") or ("onnx", "openvino"):
            verdict = judge.verdict(made, backend)
            _note(report, method, found, verdict)
            if verdict.passes(report.tolerance) and (best is None or verdict.ratio > best[0].ratio):
                best = verdict, made, method, found
    report.notes += calibration.notes() if calibration else []
    if best is not None:
        _make(target, source, best, report)
    return report


def _spec_of(source: str, settings: Settings) -> ModelSpec:
    facts = read_facts(Path(source)) if Path(source).is_dir() else None
    if facts is None:
        return load_catalog(settings.catalog)[source]
    if facts.precision != "fp32":
        raise ConfigurationError(f"{source} is {facts.precision} already; name its fp32 weights")
    values = {"handler": facts.handler, "input": _INPUTS.get(facts.handler, "json")}
    return ModelSpec.model_validate({**values, "name": "folder", "weights": source})


def _source(
    spec: ModelSpec, arguments: Mapping[str, Any], settings: Settings, scratch: Path
) -> _Source:
    """The baseline, and its graph: the weights' own, else exported now."""
    weights = located(spec.weights)
    there = weights is not None and weights.is_dir() and (weights / GRAPH).is_file()
    plain = {"precision": "fp32", "providers": (), "tolerance": None, "compiled": False}
    spec = spec.model_copy(update={**plain, "backend": "onnx" if there else "torch"})
    handler = loader_for("cpu", settings)(spec)
    folder = weights if there and weights is not None else scratch / "fp32"
    if not there and not arguments.get("aware"):
        export_to(folder, spec)
    static = arguments.get("static")
    if static is None:
        static = spec.input == "image"
    return _Source(
        spec, folder, handler, Method(static, "int8", arguments.get("per_channel", True))
    )


def _taught(
    source: _Source,
    spec: ModelSpec,
    arguments: Mapping[str, Any],
    scratch: Path,
    progress: Progress,
) -> list[str]:
    """With `aware`: the graph is that of weights which were taught int8; judged against its own."""
    if not (data := arguments.get("aware")):
        return []
    if source.spec.backend != "torch":
        raise ConfigurationError(
            f"{spec.name} is a graph, which cannot be taught; name the model whose weights it has"
        )
    weights = scratch / "taught"
    weights.mkdir()
    minutes = arguments.get("minutes") or _MINUTES
    plan = plan_of(minutes)
    began, became = teach_int8(source.spec, source.handler, data, weights, plan, progress)
    export_to(source.folder, source.spec.model_copy(update={"weights": str(weights)}))
    return [
        f"taught int8 for at most {minutes:g} CPU minutes: held-out mean with rounding "
        f"{began.mean:.4f} -> {became.mean:.4f}, least {began.least:.4f} -> {became.least:.4f}"
    ]


def _samples(spec: ModelSpec, arguments: Mapping[str, Any], most: int) -> tuple[_Read, _Read]:
    """(for tuning, held out)."""
    named = arguments.get("samples")
    path = Path(named) if named else spec.samples and find_weights(spec.samples)
    if not path:
        raise ConfigurationError(
            f"{spec.name} has no samples to tune and to judge by; give --samples, a folder of "
            "inputs or a .txt file with one a line"
        )
    most = int(arguments.get("most") or most)
    found, tuning_path = read_samples(path, spec.input, most), path
    if calibration := arguments.get("calibration"):
        tuning_path = Path(calibration)
        tuning, held = read_samples(tuning_path, spec.input, most), found
    else:
        tuning, held = split(found)
    if min(len(tuning), len(held)) < _LEAST_SAMPLES:
        raise ConfigurationError(
            f"samples: {len(tuning)} to tune and {len(held)} to judge by are too few; "
            f"give at least {_LEAST_SAMPLES} of each"
        )
    return (tuning, tuning_path), (held, path)


def _calibration(source: _Source, items: Sequence[Any], settings: Settings) -> Calibration | None:
    if not source.method.static:
        return None
    if not isinstance(source.handler, Exportable) or source.spec.backend != "torch":
        raise ConfigurationError(
            f"{source.spec.name}: static ranges are measured with its own weights; name a model "
            "whose weights are not exported yet, or use --dynamic"
        )
    export = source.handler.export()
    feeds = [export.feeds([item]) for item in items[: settings.calibration_samples]]
    return Calibration(feeds, settings.calibration_seconds)


def _methods(
    wanted: Method, graph: Graph, judge: Judge, scratch: Path, source: Path
) -> list[Method]:
    """int8 weights, and uint8 beside where int8 saturates, as on AVX2: slower, but closer."""
    if wanted.static:
        return [wanted]
    other = Method(wanted.static, "uint8", wanted.per_channel)
    closeness = []
    for method in (wanted, other):
        folder = scratch / f"all-{method.weights}"
        filled(folder, source)
        graph.quantize(folder / GRAPH, method, frozenset())
        closeness.append(judge.score(folder).closeness)
    worse = 1 - closeness[0] > _SATURATES * (1 - closeness[1])
    return [wanted, other] if worse else [wanted]


def _search(
    graph: Graph,
    method: Method,
    judge: Judge,
    made: Path,
    source: Path,
    report: Report,
    bounds: Bounds,
) -> Found | None:
    """Leaves the best of this method in `made`; None, and why in the report, if there is none."""
    assert report.tolerance is not None
    filled(made, source)
    written: list[frozenset[str]] = []

    def score(kept: frozenset[str]) -> Score:
        bounds.check()
        written.append(kept)
        graph.quantize(made / GRAPH, method, kept)
        return judge.score(made)

    goal = report.tolerance + _MARGIN * (1 - report.tolerance)
    found = find_kept(units_of(graph.layers), score, goal)
    kept = frozenset().union(*(unit.names for unit in found.kept))
    if not found.met:
        said = (
            f"{judge.measure} is {found.whole:.4f} with all layers quantized and "
            f"{found.agreement:.4f} with all but one in fp32, and {goal:.4f} was wanted to reach "
            f"{report.tolerance}; lower --tolerance, or keep fp32"
        )
        report.refused.append(Refused(str(method), said))
        return None
    if written[-1] != kept:
        graph.quantize(made / GRAPH, method, kept)
    return found


def _note(report: Report, method: Method, found: Found, verdict: Verdict) -> None:
    """A row of the table, and why it is refused if it is."""
    assert report.tolerance is not None
    report.rows.append(
        {
            "method": str(method),
            "backend": verdict.backend,
            "fp32 layers": len(found.kept),
            "MB": round(verdict.bytes / 1e6, 1),
            "tuning": round(found.agreement, 4),
            "held out": None if verdict.agreement is None else round(verdict.agreement.value, 4),
            "mean": None if verdict.agreement is None else round(verdict.agreement.mean, 4),
            "ratio": round(verdict.ratio, 3),
        }
    )
    if why := verdict.refusal(report.tolerance):
        report.refused.append(Refused(f"{method} on {verdict.backend}", why))


def _make(
    target: Path, source: _Source, best: tuple[Verdict, Path, Method, Found], report: Report
) -> None:
    verdict, made, method, found = best
    assert verdict.agreement is not None
    facts = read_facts(source.folder)
    digest = facts.weights if facts is not None else source.spec.weights
    ports = (facts.inputs, facts.outputs) if facts is not None else ((), ())
    report.measure, report.agreement = verdict.agreement.measure, round(verdict.agreement.value, 5)
    report.samples, report.ratio = verdict.agreement.samples, round(verdict.ratio, 3)
    report.bytes_after, report.made = verdict.bytes, str(target)
    kept = [unit.title for unit in found.kept]
    with new_folder(target) as folder:
        if folder is None:
            raise ConfigurationError(f"{target} was made by another process meanwhile")
        for path in made.iterdir():
            shutil.copyfile(path, folder / path.name)
        graph = hashlib.sha256((folder / GRAPH).read_bytes()).hexdigest()
        write_facts(
            folder,
            Facts(source.spec.handler, verdict.backend, "int8", digest, *ports),
            method=str(method),
            tolerance=report.tolerance,
            measure=report.measure,
            agreement=report.agreement,
            samples=report.samples,
            ratio=report.ratio,
            fp32_layers=kept,
            graph_sha256=graph,
        )
    for unit in found.kept:
        report.notes.append(f"in fp32: {unit.title}, harm {found.harm[unit.title]:.5f}")
    report.notes.append(
        f"a catalog entry with `weights: {target}`, `backend: {verdict.backend}` and "
        "`precision: int8` runs it"
    )
