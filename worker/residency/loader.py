"""Loads one model at a time, on a thread of its own that is abandoned when its load hangs.

A thread cannot be stopped. One whose load takes longer than its limit is left behind, so that
other models can be loaded; what it brings in later is unloaded again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from common.errors import ConfigurationError
from worker.guard.calls import Call, Calls, Slot, stack_of
from worker.guard.raised import RAISED, error_text
from worker.lanes.state import WorkerState
from worker.models.base import Model
from worker.residency.residency import Residency, call_unload
from worker.residency.weights_digests import FileState, WeightsDigests

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Load:
    model: str
    slot: Slot


class Loader:
    """Loads models; tells of each once, whether it was loaded, failed, or was given up."""

    def __init__(
        self,
        state: WorkerState,
        residency: Residency,
        weights_digests: WeightsDigests,
        calls: Calls,
        max_hangs: int = 0,
    ) -> None:
        """max_hangs: how many loads may hang before a model is out of service; 0 is any number."""
        self._state = state
        self._residency = residency
        self._weights_digests = weights_digests
        self._calls = calls
        self._max_hangs = max_hangs
        self._tell: Callable[[str, Model | None], None] = lambda _model, _handler: None
        self._load: _Load | None = None
        """Guarded by the state's lock."""

    def start(self, model: str, tell: Callable[[str, Model | None], None]) -> None:
        """Load this model; `tell` gets its handler, None where there is none, under the lock."""
        self._tell = tell
        load = self._load = _Load(model, self._calls.new_slot())
        threading.Thread(target=self._run, args=(load,), name="loader", daemon=True).start()

    def look(self, now: float) -> None:
        """Give up a load that takes longer than its limit; the watchdog calls it."""
        load = self._load
        call = self._calls.overdue(load.slot, now) if load is not None else None
        if load is None or call is None:
            return
        stack = stack_of(load.slot.thread)
        with self._state.lock:
            if self._load is not load:
                return
            self._calls.abandon(load.slot, call)
            self._refuse(load.model, call)
            self._end(load, None)
        log.error("load_abandoned", model=load.model, stack=stack)

    def _refuse(self, name: str, call: Call) -> None:
        model = self._residency.models[name]
        model.hangs += 1
        reason = f"its load did not end within {self._calls.limits.of('load', call.spec):g} s"
        if self._max_hangs and model.hangs >= self._max_hangs:
            self._residency.take_out(name, f"{reason}, {model.hangs} times in a row")
        else:
            self._residency.refuse(name, reason)

    def _end(self, load: _Load, handler: Model | None) -> bool:
        """Call it holding the lock. False where the load was given up before."""
        if self._load is not load:
            return False
        self._load = None
        self._tell(load.model, handler)
        self._state.changed.notify_all()
        return True

    # -- on the loader thread, while the device runs batches ---------------

    def _run(self, load: _Load) -> None:
        model, files, handler = load.model, None, None
        load.slot.enter("load", self._residency.models[model].spec, time.monotonic())
        try:
            files = self._files_of(model)
            handler = self._residency.load(model, lambda: self._load is load)
        except BaseException as exc:  # noqa: BLE001 - even an exit: no other would ever load
            RAISED.note(model, "load", exc)
            if self._load is load:
                self._residency.refuse(model, error_text(exc))
        if self._load is load:
            load.slot.leave()  # before a lock that nobody would release in a copy of the process
        with self._state.lock:
            in_time = self._end(load, handler)
            if in_time:
                self._calls.discard(load.slot)
        if handler is None:
            return
        if not in_time:
            log.warning("model_loaded_too_late", model=model)
            call_unload(model, handler)
        elif files is not None:
            self._take_weights_digest(model, files)

    def _files_of(self, model: str) -> dict[Path, FileState] | None:
        spec = self._residency.models[model].spec
        if not spec.keeps_results_seconds:
            return None
        try:
            return self._weights_digests.files(spec)
        except (OSError, ConfigurationError):
            return None  # the load reports the error

    def _take_weights_digest(self, model: str, files: dict[Path, FileState]) -> None:
        """Compute it after the load, which does not wait for it; no result is cached until then."""
        try:
            found = self._weights_digests.make(self._residency.models[model].spec, files)
        except Exception:
            log.exception("weights_digest_failed", model=model)
            return
        self._residency.models[model].weights_digest = found
