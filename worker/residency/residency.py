"""Which models are in the device's memory.

A model is loaded when it is wanted. Where a budget is set, those that were
used longest ago leave for it, unless they are pinned.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.base import Model

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 30.0
_LONGEST_RETRY_SECONDS = 300.0
_MB = 2**20


@dataclass(slots=True)
class Resident:
    """One model: in memory, absent, or refused for a reason."""

    spec: ModelSpec
    handler: Model | None = None
    error: str | None = None
    weights_digest: str | None = None
    """Of what is loaded, or was last; None until it is known (weights_digests.py)."""
    size_mb: float = 0.0
    """What it takes once loaded; measured where the catalog does not say."""
    load_seconds: float = 1.0
    """How long the last load and warm-up took; a guess before the first."""
    admitted_at: float = 0.0
    used_at: float = 0.0
    retry_at: float = 0.0
    """Steady time before which a failed load is not tried again."""
    failures: int = 0
    """Loads that failed in a row."""

    def forgive(self) -> None:
        """Its next load may be tried at once, whatever became of the last ones."""
        self.failures, self.retry_at = 0, 0.0


class Residency:
    """Loads, unloads and remembers, within a budget."""

    def __init__(
        self,
        models: Mapping[str, ModelSpec],
        budget_mb: float,
        load: Callable[[ModelSpec], Model],
        memory_mb: Callable[[], float],
    ) -> None:
        self.budget_mb = budget_mb
        self._load = load
        self._memory_mb = memory_mb
        self.models = {
            name: Resident(spec, size_mb=spec.memory_mb or 0.0) for name, spec in models.items()
        }

    @property
    def used_mb(self) -> float:
        """What the loaded models take."""
        return sum(one.size_mb for one in self.models.values() if one.handler is not None)

    def handler(self, name: str) -> Model | None:
        """The model's handler, if it is loaded."""
        return self.models[name].handler

    def loaded_as(self, handler: Model | None) -> Resident | None:
        """The model that this handler is; None once it was unloaded."""
        return next((one for one in self.models.values() if one.handler is handler), None)

    def may_load(self, name: str, now: float) -> bool:
        """Whether a load is worth trying: not loaded, and not refused a moment ago."""
        model = self.models[name]
        return model.handler is None and now >= model.retry_at

    def victims(self, name: str) -> list[str] | None:
        """Who must leave so that this model fits; None where it never will.

        The least recently used first. An unknown size counts as nothing until
        the first load has shown it; one that is loaded is among those in use already.
        """
        wanted = self.models[name]
        if not self.budget_mb:
            return []
        coming_mb = wanted.size_mb if wanted.handler is None else 0.0
        excess = self.used_mb + coming_mb - self.budget_mb
        leaving: list[str] = []
        for other in sorted(self.models, key=lambda one: self.models[one].used_at):
            if excess <= 0:
                break
            model = self.models[other]
            if other != name and model.handler is not None and not model.spec.pin:
                leaving.append(other)
                excess -= model.size_mb
        return leaving if excess <= 0 else None

    def load(self, name: str) -> Model | None:
        """Load it, whatever the budget says; None where that failed. On any thread.

        It counts as being in memory only after `admit`, once it is warm.
        """
        model = self.models[name]
        model.weights_digest = None
        before, began = self._memory_mb(), time.monotonic()
        try:
            handler = self._load(model.spec)
        except ConfigurationError as exc:
            self.refuse(name, str(exc))
            return None
        except Exception as exc:  # noqa: BLE001 - whatever a handler raises keeps it out
            self.refuse(name, f"{type(exc).__name__}: {exc}")
            return None
        model.load_seconds = time.monotonic() - began
        if model.spec.memory_mb is None:
            model.size_mb = max(0.0, self._memory_mb() - before)
        return handler

    def admit(self, name: str, handler: Model) -> None:
        """It is warm, and may be used."""
        model = self.models[name]
        model.handler, model.error = handler, None
        model.forgive()
        model.admitted_at = model.used_at = time.monotonic()
        log.info(
            "model_loaded",
            model=name,
            seconds=round(model.load_seconds, 2),
            memory_mb=round(model.size_mb),
        )

    def refuse(self, name: str, reason: str) -> None:
        """Note why it cannot be loaded; it is tried again after a while.

        Twice as long with each failure, as others may have to leave for each try.
        """
        model = self.models[name]
        pause = min(_RETRY_SECONDS * 2.0 ** min(model.failures, 10), _LONGEST_RETRY_SECONDS)
        model.failures += 1
        model.error, model.retry_at = reason, time.monotonic() + pause
        log.error("model_unavailable", model=name, error=reason, retry_seconds=pause)

    def unload(self, name: str) -> bool:
        """Free its memory; returns whether it was loaded. Nothing may be running on it."""
        model = self.models[name]
        handler, model.handler = model.handler, None
        if handler is None:
            return False
        let_go(handler)
        del handler
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.info("model_unloaded", model=name, memory_mb=round(model.size_mb))
        return True

    def touch(self, name: str) -> None:
        """It was used now."""
        self.models[name].used_at = time.monotonic()


def let_go(handler: Model) -> None:
    """Have it free what dropping it would not."""
    unload = getattr(handler, "unload", None)
    if unload is not None:
        unload()


def memory_in_use(device: str) -> Callable[[], float]:
    """How to read, in MB, what a model on this device takes: its allocations, or our pages."""
    if device.startswith("cuda"):

        def on_device() -> float:
            import torch

            return float(torch.cuda.memory_allocated(device)) / _MB

        return on_device
    return _resident_set_mb


def _resident_set_mb() -> float:
    import resource

    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize() / _MB
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / _MB if sys.platform == "darwin" else peak / 1024
