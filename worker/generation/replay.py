"""Finds out whose row makes a step raise: every job alone for one token, from what it has said.

Each is admitted anew, as a step that raised may have advanced some rows and not others. Who gets
its token goes on: it is parked, and takes rows again once all have been tried.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from worker.generation.generation import Generation
from worker.generation.seating import Seating
from worker.lanes.device_time import DeviceTime
from worker.models.generator import Advance, RowsFailed

_MAX_STEPS = 100_000
"""A prompt is read in chunks; a row that gets no token in so many steps is at fault."""

Tried = tuple[Generation, Sequence[Advance], BaseException | None]


class Replay:
    """One such search."""

    def __init__(self, seating: Seating, device_time: DeviceTime) -> None:
        self._seating = seating
        self._device_time = device_time
        self.culprits = 0
        """Jobs that raised alone."""

    def run(self) -> Iterator[Tried]:
        """Each job, on its rows, with what it got or what it raised; the caller takes these before
        the next is tried.
        """
        seating = self._seating
        suspected = list(seating.generations)
        for generation in suspected:
            seating.remove(generation)
        for generation in suspected:
            if generation.execution.disposition is not None:
                seating.park(generation)  # canceled meanwhile; it leaves at the next sweep
                continue
            advances, raised = self._try(generation)
            self.culprits += raised is not None
            yield generation, advances, raised
            if raised is None and generation in seating.generations:
                seating.remove(generation)
                seating.park(generation)

    def _try(self, generation: Generation) -> tuple[Sequence[Advance], BaseException | None]:
        self._device_time.start(time.monotonic())
        try:
            self._seating.admit(generation)
            for _ in range(_MAX_STEPS):
                if advances := self._seating.step():
                    return advances, None
            return (), RuntimeError("the model gave this prompt no token")
        except RowsFailed as exc:
            return exc.advances, exc
        except BaseException as exc:  # noqa: BLE001 - even an exit, by a model; it is judged
            return (), exc
        finally:
            self._device_time.end(time.monotonic())
