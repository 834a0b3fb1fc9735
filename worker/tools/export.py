"""`lanefleet export`: a model of the catalog, or a handler with weights, as an ONNX folder.

Workers that load a model with `backend: onnx` or `openvino` for the first time run this too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.catalog import ModelSpec, load_catalog
from common.settings import Settings
from worker.models.exporting import LEAST_COSINE, export_to
from worker.models.samples import read_samples
from worker.models.weights import find_weights, located
from worker.tools.report import Progress, Report
from worker.tools.target import free_target


def run(arguments: Mapping[str, Any], settings: Settings, progress: Progress) -> Report:
    """arguments: target, and model, or spec (keys of a catalog entry with its name)."""
    spec = _spec_of(arguments, settings)
    target = free_target(arguments["target"])
    progress(f"exporting {spec.name}", 0, 1)
    source = None if spec.samples is None else find_weights(spec.samples)
    samples = read_samples(source, spec.input, settings.export_samples) if source else []
    exported = export_to(target, spec, samples, source)
    progress(f"exporting {spec.name}", 1, 1)
    report = Report("export", spec.name, made=str(target), tolerance=LEAST_COSINE)
    source = located(spec.weights)
    report.bytes_before = _weights_bytes(source) if source is not None else None
    if exported is None:
        report.notes.append("another process made it meanwhile")
        return report
    report.bytes_after = exported.bytes_after
    report.measure, report.agreement = "min cosine", exported.least_cosine
    report.samples = exported.samples
    report.notes.append(
        f"a catalog entry with `weights: {target}` and `backend: onnx` or `openvino` runs it"
    )
    return report


def _spec_of(arguments: Mapping[str, Any], settings: Settings) -> ModelSpec:
    if "spec" in arguments:
        return ModelSpec.model_validate(arguments["spec"])
    return load_catalog(settings.catalog)[arguments["model"]]


def _weights_bytes(source: Path) -> int:
    if source.is_file():
        return source.stat().st_size
    return sum(path.stat().st_size for path in source.glob("*.safetensors"))
