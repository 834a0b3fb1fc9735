"""Tracks which models are in the device's memory.

A model is loaded on demand. Where a memory budget is set, the least recently used models
are unloaded for it, unless they are pinned.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

import structlog

from common.catalog import ModelSpec
from common.runtime import resident_set_mb
from worker.guard.raised import RAISED, error_at
from worker.lanes.rows import Rows
from worker.models.base import Model
from worker.models.generator import is_generator

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 30.0
_LONGEST_RETRY_SECONDS = 300.0
_MB = 2**20


@dataclass(slots=True)
class Resident:
    """One model: in memory, absent, or refused for a reason."""

    spec: ModelSpec
    handler: Model | None = None
    rows: Rows | None = None
    """Of a generator that is loaded."""
    error: str | None = None
    weights_digest: str | None = None
    """The digest of the weights loaded now or last; None until known (weights_digests.py)."""
    size_mb: float = 0.0
    """Memory once loaded; measured where the catalog does not give it."""
    load_seconds: float = 1.0
    """Duration of the last load; an assumption before the first."""
    admitted_at: float = 0.0
    used_at: float = 0.0
    retry_at: float = 0.0
    """Steady time before which a failed load is not tried again."""
    failures: int = 0
    """Consecutive failed loads."""
    hangs: int = 0
    """Consecutive loads that did not end within their limit."""

    @property
    def computed_by(self) -> str:
        """Backend, precision and weights digest, as far as known; empty without a backend's name.

        Asked once a batch: a microsecond.
        """
        backend = getattr(self.handler, "backend", "") or self.spec.backend
        if not backend:
            return ""
        known = f"{backend} {self.spec.precision}"
        return f"{known} {self.weights_digest}" if self.weights_digest else known

    def reset_failures(self) -> None:
        """Reset the failures, so that its next load may be tried at once."""
        self.failures, self.hangs, self.retry_at = 0, 0, 0.0


class Residency:
    """Loads and unloads models within a memory budget."""

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
        """Memory of the loaded models."""
        return sum(one.size_mb for one in self.models.values() if one.handler is not None)

    def handler(self, name: str) -> Model | None:
        """The model's handler, if it is loaded."""
        return self.models[name].handler

    def loaded_as(self, handler: Model | None) -> Resident | None:
        """The model of this handler; None once it was unloaded."""
        return next((one for one in self.models.values() if one.handler is handler), None)

    def computed_by(self, handler: Model | None) -> str:
        """What its results say of it; empty where it says nothing, or was unloaded."""
        model = None if handler is None else self.loaded_as(handler)
        return "" if model is None else model.computed_by

    def may_load(self, name: str, now: float) -> bool:
        """Whether a load may be tried: the model is not loaded, and no failure is too recent."""
        model = self.models[name]
        return model.handler is None and now >= model.retry_at

    def victims(self, name: str) -> list[str] | None:
        """The models to unload so that this one fits; None where it cannot fit.

        The least recently used first. An unknown size counts as zero until the first load has
        measured it; a model that is already loaded is not counted twice.
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

    def load(self, name: str, wanted: Callable[[], bool] = lambda: True) -> Model | None:
        """Load it regardless of the budget; None where that failed. On any thread.

        It counts as loaded only after `admit`, once it is warm. Nothing is recorded of a load that
        is no longer wanted at its end.
        """
        model = self.models[name]
        model.weights_digest = None
        before, began = self._memory_mb(), time.monotonic()
        try:
            handler = self._load(model.spec)
        except BaseException as exc:  # noqa: BLE001 - whatever a handler raises keeps it out
            RAISED.note(name, "load", exc)
            if wanted():
                self.refuse(name, error_at(exc))
            return None
        if not wanted():
            return handler
        model.load_seconds = time.monotonic() - began
        if model.spec.memory_mb is None:
            model.size_mb = max(0.0, self._memory_mb() - before)
        return handler

    def admit(self, name: str, handler: Model) -> None:
        """Record that it is loaded and warm."""
        model = self.models[name]
        model.handler, model.error = handler, None
        model.rows = Rows(handler, model.spec) if is_generator(handler) else None
        model.reset_failures()
        model.admitted_at = model.used_at = time.monotonic()
        log.info(
            "model_loaded",
            model=name,
            seconds=round(model.load_seconds, 2),
            memory_mb=round(model.size_mb),
        )

    def refuse(self, name: str, reason: str) -> None:
        """Record why it cannot be loaded; a load may be tried again after a pause.

        The pause doubles with each failure, because each try may unload other models.
        """
        model = self.models[name]
        pause = min(_RETRY_SECONDS * 2.0 ** min(model.failures, 10), _LONGEST_RETRY_SECONDS)
        model.failures += 1
        model.error, model.retry_at = reason, time.monotonic() + pause
        log.error("model_unavailable", model=name, error=reason, retry_seconds=pause)

    def take_out(self, name: str, reason: str, seconds: float = inf) -> None:
        """Take it out of service, for this reason: so long, or until an operator asks for it."""
        model = self.models[name]
        model.error, model.retry_at = reason, time.monotonic() + seconds
        log.error("model_out_of_service", model=name, reason=reason)

    def unload(self, name: str) -> bool:
        """Free its memory; returns whether it was loaded. Nothing may be running on it."""
        model = self.models[name]
        handler, model.handler, model.rows = model.handler, None, None
        if handler is None:
            return False
        call_unload(name, handler)
        del handler
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.info("model_unloaded", model=name, memory_mb=round(model.size_mb))
        return True

    def touch(self, name: str) -> None:
        """Record that it was used now."""
        self.models[name].used_at = time.monotonic()


def call_unload(name: str, handler: Model) -> None:
    """Call the handler's `unload`, which frees what dropping the handler would not.

    Whatever it raises is logged; the handler is dropped all the same.
    """
    try:
        unload = getattr(handler, "unload", None)
        if unload is not None:
            unload()
    except BaseException as exc:  # noqa: BLE001 - even an exit: the device's thread would end
        RAISED.note(name, "unload", exc)


def memory_in_use(device: str) -> Callable[[], float]:
    """A function that reads the memory in use in MB: the device's allocations, or on the CPU the
    resident pages of this process.
    """
    if device.startswith("cuda"):

        def on_device() -> float:
            import torch

            return float(torch.cuda.memory_allocated(device)) / _MB

        return on_device
    return resident_set_mb
