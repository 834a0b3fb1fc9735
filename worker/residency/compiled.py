"""Keeps compiled networks in the state folder, and has a load take the one that fits.

Fitting means made here: of these weights, by this torch, for this processor and number of
threads, sealed with this machine's key. Anything else is told and not run, and the model is
served uncompiled.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import structlog

from common.catalog import ModelSpec
from common.errors import ConfigurationError, FleetError
from worker.devices.torch_import import finish_torch
from worker.devices.torch_setup import math_threads
from worker.models.base import Model
from worker.models.compiled import CanBeCompiled, Run, refuse_graphs
from worker.models.sealed import Broken, copy_sealed, read_sealed, seal
from worker.residency.weights_digests import WeightsDigests

__all__ = ("NETWORK", "CompiledNetworks", "Unfit", "processor")

log = structlog.get_logger(__name__)

NETWORK = "network.pt2"
_FORMAT = 1
_KEY_CHARACTERS = 16
_CPU_FACTS = Path("/proc/cpuinfo")


class Unfit(FleetError):
    """There is no compiled network that may run here; the message says why."""

    code = "compiled_unfit"


class CompiledNetworks:
    """Those of one state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "compiled"
        self._key = state_dir / "compiled.key"
        self._digests = WeightsDigests(state_dir / "digests.json")

    def facts(self, spec: ModelSpec, device: str) -> dict[str, Any]:
        """All that a compiled network depends on. The handler must be loaded: its file counts.

        Raises ConfigurationError where the weights changed meanwhile.
        """
        import torch

        eager = spec.model_copy(update={"compiled": False})
        weights = self._digests.make(eager, self._digests.files(eager))
        if weights is None:
            raise ConfigurationError(f"models.{spec.name}.weights: they were changed just now")
        return {
            "format": _FORMAT,
            "weights": weights,
            "torch": torch.__version__,
            "device": device,
            "processor": processor(),
            "threads": math_threads(),
        }

    def place(self, spec: ModelSpec, facts: dict[str, Any]) -> Path:
        """Where the one with these facts is, or would be."""
        text = json.dumps(facts, sort_keys=True).encode()
        return self._folder / spec.name / hashlib.sha256(text).hexdigest()[:_KEY_CHARACTERS]

    def keep(self, folder: Path, facts: dict[str, Any], figures: dict[str, Any]) -> None:
        """Seal a folder that is about to take its name."""
        seal(folder, {"facts": facts, "figures": figures}, self._key)

    def take(self, handler: Model, spec: ModelSpec, device: str) -> None:
        """Have the loaded handler run its compiled network, where there is a fitting one.

        Raises ConfigurationError for a handler that knows of no such thing.
        """
        refuse_graphs(spec)
        if not isinstance(handler, CanBeCompiled):
            raise ConfigurationError(
                f"models.{spec.name}.compiled: {spec.handler_path} has no compilable and "
                "use_compiled; remove the key, or see docs/faster-models.md"
            )
        try:
            run = self._open(spec, device)
        except (Unfit, Broken) as exc:
            log.warning("model_served_uncompiled", model=spec.name, reason=str(exc))
            return
        handler.use_compiled(run)
        log.info("compiled_network_taken", model=spec.name)

    def why_not(self, spec: ModelSpec, device: str) -> str:
        """Why a load takes none; empty where it does."""
        try:
            self._open(spec, device)
        except (Unfit, Broken) as exc:
            return str(exc)
        return ""

    def newest(self, spec: ModelSpec) -> tuple[Path, dict[str, Any]] | None:
        """The file that was made last, whether it fits or not, and its facts. Raises Broken."""
        made = sorted(
            (self._folder / spec.name).glob(f"[!.]*/{NETWORK}"), key=lambda one: one.stat().st_mtime
        )
        return (made[-1], read_sealed(made[-1].parent, self._key)["facts"]) if made else None

    def _open(self, spec: ModelSpec, device: str) -> Run:
        facts = self.facts(spec, device)
        place = self.place(spec, facts)
        if not place.is_dir():
            raise Unfit(f"{self._what_there_is(spec, facts)}; run: lanefleet compile {spec.name}")
        about = read_sealed(place, self._key)
        if about["facts"] != facts:
            raise Unfit(f"{place} was moved there; run: lanefleet compile {spec.name}")
        with tempfile.TemporaryDirectory(prefix="lanefleet-compiled-") as folder:
            copy = Path(folder) / NETWORK
            copy_sealed(place, NETWORK, about, copy)
            return load_network(copy)

    def _what_there_is(self, spec: ModelSpec, facts: dict[str, Any]) -> str:
        """Why nothing fits, by the newest of what is there."""
        try:
            newest = self.newest(spec)
        except Broken as exc:
            return str(exc)
        if newest is None:
            return "it was never compiled on this machine"
        _, theirs = newest
        unlike = [
            f"{name} {theirs.get(name)}, not {facts[name]}"
            for name in facts
            if theirs.get(name) != facts[name]
        ]
        return f"what was compiled is for {'; '.join(unlike)}"


def load_network(path: Path) -> Run:
    """Load machine code. Raises Unfit where torch cannot."""
    import torch

    finish_torch()
    from torch._inductor import aoti_load_package

    try:
        network = aoti_load_package(str(path))
    except Exception as exc:
        raise Unfit(f"torch cannot load {path.name}: {exc}") from exc

    def run(*inputs: torch.Tensor) -> Any:
        return network(*inputs)

    return run


def processor() -> str:
    """Its architecture, with a digest of the instructions that it knows."""
    try:
        lines = _CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next((one for one in lines if one.startswith(("flags", "Features"))), "")
    words = " ".join(sorted(flags.partition(":")[2].split()))
    return f"{platform.machine()}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"
