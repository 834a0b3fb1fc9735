"""The two programs of the child: one model from its load to its speed, and two against another."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from common.settings import Settings
from worker.checking.comparing import compare
from worker.checking.contract import check_results
from worker.checking.fault import Fault
from worker.checking.inputs import example_of, gather, samples_at
from worker.checking.rows import check_rows
from worker.checking.speed import advise, paces
from worker.checking.verbs import Verbs, Watch, module_file
from worker.models import load_handler
from worker.models.generator import is_generator
from worker.models.remote import is_remote
from worker.models.samples import read_samples, split
from worker.residency.compiled import CompiledNetworks
from worker.residency.loading import loader_for

__all__ = ("compare_two", "examine")

_STATUS = Path("/proc/self/status")
_LEAST_TIMING_SECONDS = 2.0


def examine(
    spec: ModelSpec, settings: Settings, watch: Watch, device: str, seconds: float
) -> dict[str, Any]:
    """Load it, check its contract, time it. Raises Fault with the first thing that is wrong."""
    before = _memory_mb()
    verbs, load_seconds = _load(spec, settings, watch, device)
    after = _memory_mb()
    facts: dict[str, Any] = {
        "load_seconds": round(load_seconds, 2),
        "rss_mb": round(after["VmRSS"]),
        "model_mb": round(after["VmRSS"] - before["VmRSS"]),
        "mapped_mb": round(after["RssFile"] - before["RssFile"]),
        "notes": [],
    }
    handler: Any = verbs.handler
    if is_remote(handler):
        facts["notes"].append("its server runs the model: there is nothing more to check here")
        return {**facts, "rows": []}
    if is_generator(handler):
        value = example_of(verbs)
        if value is None:
            raise Fault("there is no example to write on; give it `example()`", "example")
        found, rows = check_rows(verbs, handler, value)
        if not found["same_in_company"]:
            facts["notes"].append(
                "its text in company differs from its text alone; a worker "
                "takes that from a generator, unless it promises `exact`"
            )
        return {**facts, **found, "rows": rows}
    inputs = gather(verbs)
    facts |= check_results(verbs, inputs)
    found_paces = paces(verbs, inputs.typical(), seconds)
    rows = [one._asdict() for one in found_paces]
    return {**facts, "advice": advise(found_paces, spec.target_latency_ms), "rows": rows}


def compare_two(
    reference: ModelSpec,
    spec: ModelSpec,
    settings: Settings,
    watch: Watch,
    request: Mapping[str, Any],
) -> dict[str, Any]:
    """Both in this process, on the held-out half of the samples, or on the example alone."""
    began = time.monotonic()
    device, most = request["device"], request["samples"]
    verbs, _ = _load(spec, settings, watch, device)
    if is_generator(verbs.handler) or is_remote(verbs.handler):
        raise Fault("a generator's texts have no agreement that a tolerance could bound")
    if spec.compiled and (why := CompiledNetworks(settings.state_dir).why_not(spec, device)):
        raise Fault(f"models.{spec.name}: it is served uncompiled: {why}")
    original, _ = _load(reference, settings, watch, device)
    values, note = _values(spec, verbs, most)
    spent = time.monotonic() - began
    compared = compare(
        original, verbs, values, max(_LEAST_TIMING_SECONDS, request["seconds"] / 2 - spent)
    )
    one = compared.agreement
    if not one.samples:
        raise Fault(f"models.{spec.name}: none of its {len(values)} samples can be decoded")
    refused = f"{compared.refused} samples are no input of it" if compared.refused else ""
    return {
        "measure": one.measure,
        "agreement": one.value,
        "mean": one.mean,
        "samples": one.samples,
        "ratio": compared.ratio,
        "note": "; ".join(filter(None, (note, refused))),
        "notes": [],
    }


def _values(spec: ModelSpec, verbs: Verbs, most: int) -> tuple[list[Any], str]:
    if path := samples_at(spec):
        # Those that tuned it are the other half.
        return split(read_samples(path, spec.input))[1][:most], ""
    example = example_of(verbs)
    if example is None:
        raise Fault(
            f"models.{spec.name}: there is nothing to compare it on; give its catalog entry "
            "`samples:`, a folder or file of inputs"
        )
    return [example], "no `samples` in the catalog: judged on the model's example alone"


def _load(spec: ModelSpec, settings: Settings, watch: Watch, device: str) -> tuple[Verbs, float]:
    def begin() -> Any:
        return load_handler(spec)

    try:
        kind = type(watch.run("import", "", begin))
        watch.module = module_file(kind)
        load: Callable[[ModelSpec], Any] = loader_for(device, settings)
        began = time.monotonic()
        handler = watch.run("load", "", lambda: load(spec))
    except ConfigurationError as exc:
        raise Fault(str(exc)) from exc
    return Verbs(handler, spec, watch), time.monotonic() - began


def _memory_mb() -> dict[str, float]:
    """`VmRSS` and `RssFile` of this process; 0 where the system does not tell."""
    found = {"VmRSS": 0.0, "RssFile": 0.0}
    try:
        text = _STATUS.read_text(encoding="utf-8")
    except OSError:
        return found
    for name in found:
        if one := re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE):
            found[name] = int(one[1]) / 1024
    return found
