"""`lanefleet check`: a model's contract, speed and accuracy, each in a child process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.catalog import Catalog, ModelSpec, load_catalog
from common.errors import ConfigurationError
from common.settings import Settings
from worker.checking.child import run_child
from worker.checking.gate import Gate, make_verdict
from worker.checking.reference import mode_of, reference_of
from worker.checking.verdicts import SLOW, Verdict
from worker.models.ready_graph import ready_graph, runs_graphs
from worker.models.sealed import Broken
from worker.models.weights import located
from worker.residency.compiled import CompiledNetworks
from worker.tools.report import Progress, Refused, Report

_STEPS = 2
_VARIANTS: tuple[Mapping[str, Any], ...] = (
    {"backend": "onnx", "precision": "fp32"},
    {"backend": "openvino", "precision": "fp32"},
    {"backend": "torch", "precision": "bf16"},
    {"backend": "torch", "precision": "fp16"},
    {"backend": "torch", "precision": "fp32", "compiled": True},
)


def run(arguments: Mapping[str, Any], settings: Settings, progress: Progress) -> Report:
    """arguments: models, all_backends, seconds (of timing), verb_seconds, device."""
    catalog = load_catalog(settings.catalog)
    names = arguments.get("models") or []
    if most := arguments.get("samples"):
        settings = settings.model_copy(update={"accuracy_gate_samples": most})
    device = arguments.get("device") or "cpu"
    if arguments.get("all_backends"):
        return _compare_all(names or list(catalog.models), catalog, settings, device, progress)
    if len(names) != 1:
        raise ConfigurationError("name one model to check, or compare several: --all-backends")
    return _check(catalog[names[0]], catalog, settings, device, arguments, progress)


def _check(
    spec: ModelSpec,
    catalog: Catalog,
    settings: Settings,
    device: str,
    arguments: Mapping[str, Any],
    progress: Progress,
) -> Report:
    report = Report("check", spec.name)
    progress("contract and speed", 0, _STEPS)
    request = {
        "do": "examine",
        "spec": spec.model_dump(mode="json"),
        "device": device,
        "seconds": arguments.get("seconds") or 10.0,
        "verb_seconds": arguments.get("verb_seconds"),
    }
    silent = settings.frozen_seconds or float("inf")
    outcome = run_child(request, silent_seconds=silent)
    report.notes += outcome.notes
    progress("contract and speed", 1, _STEPS)
    if outcome.fault or outcome.found is None:
        report.refused.append(Refused(spec.name, outcome.fault))
        return report
    report.bytes_after = _weights_bytes(spec)
    _describe(outcome.found, report)
    _judge(spec, Gate(settings, catalog.models, device), report)
    progress("accuracy", _STEPS, _STEPS)
    return report


def _describe(found: Mapping[str, Any], report: Report) -> None:
    report.rows = list(found["rows"])
    say = report.notes.append
    say(
        f"loads in {found['load_seconds']:g} s; the process takes {found['rss_mb']} MB, "
        f"{found['model_mb']} MB of it since the load, of which {found['mapped_mb']} MB are files "
        "that are mapped, shared by all processes"
    )
    if "inputs" in found:
        say(
            f"keeps the contract on {found['inputs']}; results of {found['result_bytes']} bytes "
            "at most"
        )
    if not found.get("repeatable", True):
        say(
            "the same input gives another result each time: keep `cache_seconds: 0` and "
            "`run_identical_once: false`"
        )
    if found.get("batch_difference") is not None:
        say(f"batched equals single up to {found['batch_difference']:.2g} of the largest number")
    if advice := found.get("advice"):
        say(
            f"max_batch: {advice['max_batch']}, max_wait_ms: {advice['max_wait_ms']:g}: "
            f"{advice['why']}"
        )
    report.notes += found["notes"]


def _judge(spec: ModelSpec, gate: Gate, report: Report) -> None:
    if not gate.differs(spec) and not spec.compiled:
        report.notes.append("it is fp32 on its own backend: there is nothing to compare it with")
        return
    verdict = gate.make(spec)
    _take(verdict, report)
    report.tolerance = verdict.tolerance(spec.tolerance)
    if verdict.trouble:
        report.refused.append(Refused("accuracy", verdict.trouble))
    elif refusal := verdict.refusal(spec):
        report.refused.append(Refused(verdict.mode, refusal))
    if verdict.ratio < SLOW:
        report.refused.append(Refused(verdict.mode, verdict.warning()))


def _take(verdict: Verdict, report: Report) -> None:
    report.samples = verdict.samples
    if not verdict.trouble:
        report.measure, report.agreement = verdict.measure, round(verdict.agreement, 6)
        report.ratio = verdict.ratio
    if verdict.note:
        report.notes.append(verdict.note)


def _compare_all(
    names: list[str], catalog: Catalog, settings: Settings, device: str, progress: Progress
) -> Report:
    """A row for each model, backend and precision, against the model on torch in fp32."""
    report = Report("check", ", ".join(names))
    compiled = CompiledNetworks(settings.state_dir)
    pairs: list[tuple[ModelSpec, ModelSpec]] = []
    for name in names:
        try:
            pairs += _variants(catalog[name], catalog)
        except ConfigurationError as exc:
            report.refused.append(Refused(name, str(exc)))
    for done, (spec, reference) in enumerate(pairs):
        progress(f"{spec.name} {mode_of(spec)}", done, len(pairs))
        if spec.compiled:
            verdict = _of_compiled(spec, reference, compiled, settings, device)
        else:
            verdict = make_verdict(spec, reference, settings, device, nice=False)
        report.rows.append(_row(spec, verdict, _bytes_of(spec, compiled)))
        refusal = verdict.trouble or verdict.refusal(spec)
        if not refusal and verdict.ratio < SLOW:
            refusal = verdict.warning()
        if refusal:
            report.refused.append(Refused(f"{spec.name} {verdict.mode}", refusal))
        if verdict.note and verdict.note not in report.notes:
            report.notes.append(verdict.note)
    progress("done", len(pairs), len(pairs))
    report.notes.append(
        "ratio: items per CPU second against torch fp32, in turns in one process, one thread"
    )
    return report


def _of_compiled(
    spec: ModelSpec,
    reference: ModelSpec,
    compiled: CompiledNetworks,
    settings: Settings,
    device: str,
) -> Verdict:
    """Both on as many threads as it was compiled for; unknown where nothing is compiled."""
    try:
        newest = compiled.newest(spec)
    except Broken as exc:
        return Verdict.unknown(spec.name, mode_of(spec), str(exc))
    if newest is None:
        why = f"not compiled on this machine; `lanefleet compile {spec.name}` does it, if it gains"
        return Verdict.unknown(spec.name, mode_of(spec), why)
    threads = int(newest[1].get("threads", 1))
    verdict = make_verdict(spec, reference, settings, device, nice=False, threads=threads)
    return replace(verdict, note="; ".join(filter(None, (verdict.note, _threads(threads)))))


def _threads(count: int) -> str:
    return f"compiled networks were compared on {count} threads" if count > 1 else ""


def _variants(spec: ModelSpec, catalog: Catalog) -> list[tuple[ModelSpec, ModelSpec]]:
    """What is compared with what: the entry as it stands, and the same weights otherwise."""
    reference = reference_of(spec, catalog.models)
    found = [(spec, reference)] if Gate.differs(spec) else []
    if reference.weights != spec.weights or spec.handler not in _SWITCHABLE:
        return found
    base = mode_of(spec)
    others = [
        spec.model_copy(update={"providers": (), "compiled": False, **one}) for one in _VARIANTS
    ]
    plain = {"backend": "torch", "precision": "fp32", "providers": (), "compiled": False}
    on_torch = spec.model_copy(update=plain)
    return found + [(one, on_torch) for one in others if mode_of(one) != base]


def _row(spec: ModelSpec, verdict: Verdict, size: int | None) -> dict[str, Any]:
    known = not verdict.trouble
    if not known:
        word = "not compiled" if spec.compiled else "refused"
    elif verdict.refusal(spec):
        word = "refused"
    else:
        word = "slower" if verdict.ratio < SLOW else "passes"
    return {
        "model": spec.name,
        "backend": mode_of(spec).partition(" ")[0],
        "precision": spec.precision,
        "weights MB": round(size / 1e6, 1) if size and known else None,
        "ratio": verdict.ratio if known else None,
        "measure": verdict.measure,
        "agreement": round(verdict.agreement, 5) if known else None,
        "samples": verdict.samples if known else None,
        "verdict": word,
    }


_SWITCHABLE: frozenset[str] = frozenset({"minilm", "resnet50", "classify"})
"""Built-in handlers that read `backend`."""


def _bytes_of(spec: ModelSpec, compiled: CompiledNetworks) -> int | None:
    if not spec.compiled:
        return _weights_bytes(spec)
    with suppress(Broken):
        newest = compiled.newest(spec)
        return newest[0].stat().st_size if newest else None
    return None


def _weights_bytes(spec: ModelSpec) -> int | None:
    """Of the file that its backend reads, where it is there."""
    try:
        path: Path | None = located(spec.weights)
        if spec.handler in _SWITCHABLE and runs_graphs(spec):
            path = ready_graph(spec)
    except ConfigurationError:
        return None
    if path is None or not path.exists():
        return None
    if path.is_file():
        return path.stat().st_size
    kinds = ("*.safetensors", "*.onnx", "*.onnx.data")
    return sum(one.stat().st_size for kind in kinds for one in path.glob(kind)) or None
