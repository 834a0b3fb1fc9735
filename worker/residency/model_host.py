"""Loads models into the device's memory and unloads them, between batches.

A load may need room: then the lanes of the models to unload stop reserving, their jobs in
hand still run, and only then are they unloaded. An alias that is moved is served by the old
model until the new one is warm; jobs decoded for the old one still run on it.

A model is loaded on a thread of its own, while the device thread runs the others, and is
warmed up on the device thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

import structlog

from common.catalog import Target
from worker.guard.calls import Call, Calls, Slot
from worker.guard.raised import RAISED, error_at
from worker.lanes.lane import Lane
from worker.lanes.state import WorkerState
from worker.models.base import Model
from worker.residency.companions import Companions
from worker.residency.loader import Loader
from worker.residency.loading import warm_up
from worker.residency.residency import Residency, call_unload

log = structlog.get_logger(__name__)

Task = Callable[[], object]
"""A function to run on the device between batches."""

_LOADS_A_STAY = 5.0
"""A model with work stays loaded for at least this many times its load time."""


class ModelHost:
    """Decides when models are loaded and unloaded, and updates the lanes."""

    def __init__(
        self,
        state: WorkerState,
        residency: Residency,
        loader: Loader,
        calls: Calls,
        *,
        warm_full_batches: bool,
        turn_seconds: float,
        on_stuck: Callable[[Slot, Call], None] = lambda _slot, _call: None,
        hold: bool = False,
    ) -> None:
        """warm_full_batches: whether the device's kernels depend on the batch size; on_stuck is
        called when a warm-up or an unload takes longer than its limit; hold: whether no lane opens
        before all models of the start are loaded, so that it is plain which of them ends the
        process.
        """
        self._state = state
        self.residency = residency
        self.companions = Companions(state.lanes, residency)
        self._loader = loader
        self._warm_full_batches = warm_full_batches
        self._turn_seconds = turn_seconds
        self._calls = calls
        self._on_stuck = on_stuck
        self._hold = hold
        self._tasking = calls.new_slot()
        """What the device's thread does besides batches."""
        self.aliases_stale = threading.Event()
        """Set when an alias may have moved, or can be moved now; see AliasWatch."""
        self._tasks: deque[Task] = deque()
        self._wanted: deque[str] = deque()
        """Models to load, one after the other."""
        self._eager: deque[str] = deque()
        """Models to load at start, each only if no other has to be unloaded for it."""
        self._opening: str | None = None
        """The model for which others are being unloaded."""
        self._leaving: list[str] = []
        self.loading: str | None = None
        """The model that is being loaded or warmed up."""

    def begin(self) -> None:
        """Queue the eager models for loading, in the catalog's order, as far as they fit."""
        with self._state.lock:
            for lane in self._state.lanes.values():
                # Not at once where it was taken out of service: its first job may try again.
                out = self.residency.models[lane.spec.name].retry_at > 0
                if lane.spec.load == "eager" and not out and lane.spec.name not in self._eager:
                    self._eager.append(lane.spec.name)

    # -- called by the scheduler, holding the lock ------------------------

    def has_tasks(self) -> bool:
        """Whether something waits to be run on the device."""
        return bool(self._tasks)

    def is_bringing_in(self) -> bool:
        """Whether a model is being loaded, or is about to be."""
        return self._opening is not None or self.loading is not None or bool(self._wanted)

    def is_starting(self) -> bool:
        """Whether a model is being loaded, or one of the start is still to be. Needs no lock."""
        return bool(self._eager) or self.is_bringing_in()

    def may_open(self, model: str, now: float) -> bool:
        """Whether a load of this model may be started now."""
        if self._opening is not None or self.loading is not None or self._wanted or self._eager:
            return False
        if not self.residency.may_load(model, now):
            return False
        return all(self._may_leave(one, now) for one in self.residency.victims(model) or ())

    def _may_leave(self, model: str, now: float) -> bool:
        """Whether it has no work, or has been loaded long enough for the cost of its load."""
        one = self.residency.models[model]
        stay = max(self._turn_seconds, _LOADS_A_STAY * one.load_seconds)
        return now - one.admitted_at >= stay or not any(
            (lane.in_hand or lane.ready) and self.companions.uses(lane, model)
            for lane in self._state.lanes.values()
        )

    def load_seconds(self, model: str) -> float:
        """The expected time to load it."""
        return self.residency.models[model].load_seconds

    def open(self, model: str) -> None:
        """Load this model; the lanes of models to unload for it stop reserving."""
        if self.residency.handler(model) is not None:
            return
        leaving = self.residency.victims(model)
        if leaving is None:
            size, budget = self.residency.models[model].size_mb, self.residency.budget_mb
            self.residency.refuse(
                model,
                f"it takes {size:.0f} MB, more than LANEFLEET_MODEL_MEMORY_MB ({budget:.0f}) "
                "leaves beside the pinned models; raise it or unpin one",
            )
            return
        self._opening = model
        self._leave(leaving)

    def next_task(self) -> Task | None:
        """The task to run on the device before its next batch; starts loads that are due."""
        if self._tasks:
            return self._tasks.popleft()
        if self._leaving and not any(map(self._is_busy, self._leaving)):
            leaving, self._leaving = self._leaving, []
            return lambda: self._unload(leaving)
        while self._opening is None and self.loading is None and self._wanted:
            self.open(self._wanted.popleft())
        while self._opening is None and self.loading is None and self._eager:
            model = self._eager.popleft()
            if not self.residency.victims(model):
                self.open(model)
        if self._opening is not None and self.loading is None and not self._leaving:
            self.loading, self._opening = self._opening, None
            self._loader.start(self.loading, self._loaded)
        if self._hold and not (self._eager or self.is_bringing_in()):
            self._hold = False
            self._open_lanes(*self.residency.models)
        return None

    def _open_lanes(self, *models: str) -> None:
        """Have their lanes reserve, those of the models that are loaded."""
        for model in models:
            resident = self.residency.models[model]
            for lane in self._lanes_of(model) if resident.handler is not None else ():
                lane.serve(lane.spec, resident.handler, resident.rows)
        self._state.changed.notify_all()

    def _loaded(self, model: str, handler: Model | None) -> None:
        """The loader has loaded it, or failed to."""
        if handler is None:
            self.loading = None
        else:
            self._tasks.append(lambda: self._admit(model, handler))

    # -- operators' commands, on other threads ----------------------------

    def on_command(self, command: bytes) -> None:
        """Handle `load`, `unload` or `warm` with a model, or `aliases`; others are ignored."""
        verb, _, model = command.decode("utf-8", "replace").partition(" ")
        if verb == "aliases":
            self.aliases_stale.set()
        if model not in self.residency.models:
            return
        with self._state.lock:
            self._obey(verb, model)
            self._state.changed.notify_all()

    def take_out(self, model: str, reason: str) -> None:
        """Take a loaded model out of service once what it holds is done."""
        with self._state.lock:
            self.residency.take_out(model, reason)
            if self.residency.handler(model) is not None:
                self._leave([model])
            self._state.changed.notify_all()

    def warnings(self) -> list[str]:
        """A sentence for each version with a share of jobs that cannot be loaded."""
        with self._state.lock:
            return self.companions.warnings()

    def run_on_device(self, task: Task) -> None:
        """Have the device's thread run this between two batches; returns at once."""
        with self._state.lock:
            self._tasks.append(task)
            self._state.changed.notify_all()

    def _obey(self, verb: str, model: str) -> None:
        handler = self.residency.handler(model)
        if verb in ("load", "warm") and handler is None:
            self.residency.models[model].reset_failures()
            self._calls.marks.reset(model)
            self._wanted.append(model)
        elif verb == "warm" and handler is not None:
            self._tasks.append(lambda: self._warm_up(model, handler))
        elif verb == "unload" and handler is not None:
            self._leave([model])

    def move_aliases(self, targets: Mapping[str, Target]) -> None:
        """Point aliases at these models, each as soon as its model is loaded; and load what lanes
        have beside their own models.
        """
        with self._state.lock:
            for alias, target in targets.items():
                self._move_alias(alias, target)
            self.companions.settle()
            now = time.monotonic()
            wanted = self.companions.wanted(lambda model: self.may_open(model, now))
            if wanted is not None:
                self.open(wanted)
            self._state.changed.notify_all()

    def _move_alias(self, alias: str, target: Target) -> None:
        lane = self._state.lanes.get(alias)
        if lane is None:
            return
        main = self.companions.main_of(alias, target)
        model = self.residency.models.get(main)
        if model is None or lane.spec.name == main:
            return
        handler = model.handler
        if handler is None and lane.handler is not None:
            if self.may_open(main, time.monotonic()):
                self.open(main)
            return  # the old model serves until the new one is warm
        log.info("alias_moved", alias=alias, model=main)
        lane.serve(model.spec, handler, model.rows)

    def look(self, now: float) -> None:
        """Report a warm-up or an unload that takes longer than its limit, and give up a load that
        does; the watchdog calls it.
        """
        if call := self._calls.overdue(self._tasking, now):
            self._on_stuck(self._tasking, call)
        self._loader.look(now)

    # -- on the device thread, without the lock ----------------------------

    def _admit(self, model: str, handler: Model) -> None:
        """Warm up the model, then open its lanes for reserving."""
        warm = self._warm_up(model, handler)
        if not warm:
            self._unload_refused(model, handler)
        with self._state.lock:
            self.loading = None
            if warm:
                self.residency.admit(model, handler)
                self._calls.marks.loaded(model)
                if not self._hold:
                    self._open_lanes(model)
                self.aliases_stale.set()
                self._leave([one for one in self.residency.victims(model) or () if one != model])
            self._state.changed.notify_all()

    def _warm_up(self, model: str, handler: Model) -> bool:
        resident = self.residency.models[model]
        if resident.rows is not None and resident.rows.has_work:
            return True  # it is warm, and a step of ours would advance jobs that nobody hears
        spec = resident.spec
        self._tasking.enter("warm-up", spec, time.monotonic())
        try:
            bool(getattr(handler, "pads", True))  # later asked for where nothing may raise
            example = spec.warm_up
            if example is None and (make := getattr(handler, "example", None)):
                example = make()
            if example is not None:
                warm_up(handler, example, spec.max_batch if self._warm_full_batches else 1)
        except BaseException as exc:  # noqa: BLE001 - even an exit: no batch would ever run
            RAISED.note(model, "warm-up", exc)
            self.residency.refuse(model, f"its warm-up failed: {error_at(exc)}")
            return False
        finally:
            self._tasking.leave()
        return True

    def _unload_refused(self, model: str, handler: Model) -> None:
        self._tasking.enter("unload", self.residency.models[model].spec, time.monotonic())
        call_unload(model, handler)
        self._tasking.leave()

    def _unload(self, models: list[str]) -> None:
        with self._state.lock:
            for model in models:
                for lane in self._lanes_of(model):
                    lane.serve(lane.spec, None)
        for model in models:
            self._tasking.enter("unload", self.residency.models[model].spec, time.monotonic())
            self.residency.unload(model)
            self._tasking.leave()
            self.companions.leaving.discard(model)
        self._state.wake()

    # -- internals --------------------------------------------------------

    def _leave(self, models: list[str]) -> None:
        self._leaving += [model for model in models if model not in self._leaving]
        for model in models:
            for lane in self._lanes_of(model):
                lane.closing = True
        self.companions.left(models)

    def _is_busy(self, model: str) -> bool:
        """Whether jobs in hand must still run on this model."""
        handler, rows = self.residency.handler(model), self.residency.models[model].rows
        lanes = self._lanes_of(model)
        if rows is not None and rows.has_work:
            return True
        return any(lane.in_hand or lane.waiting or lane.asking for lane in lanes) or any(
            one.handler is handler
            for lane in self._state.lanes.values()
            for one in lane.in_hand.values()
        )

    def _lanes_of(self, model: str) -> list[Lane]:
        return [lane for lane in self._state.lanes.values() if lane.spec.name == model]
