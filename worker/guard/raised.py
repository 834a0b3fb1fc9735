"""Logs what a model raises, with its traceback: each fault when it is first met, then now and then.

A model that raises on every job would otherwise fill the log; how many lines were left out is
said with the next one.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from common.errors import FleetError, InvalidInput, name_of, text_of
from worker.models.place import place_of_error, place_of_verb

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 300.0
_MAX_FAULTS = 256
_MAX_TEXT = 2_000
_MAX_TRACEBACK = 20_000

_Fault = tuple[str, str, str, str]


@dataclass(slots=True)
class _Met:
    again_at: float
    unsaid: int = 0


class RaisedLog:
    """The faults met lately. On any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._met: OrderedDict[_Fault, _Met] = OrderedDict()
        self._lock = threading.Lock()

    def note(
        self,
        model: str,
        verb: str,
        error: BaseException,
        *,
        handler: object = None,
        **facts: object,
    ) -> None:
        """A verb of this model raised this. Refusals of inputs are no faults, and not logged.

        handler: where given, the line of its verb is named for an error that passed none of its
        lines, such as one about what the verb returned.
        """
        if issubclass(type(error), InvalidInput):
            return
        fault = (model, verb, name_of(error), _place(error))
        now = self._clock()
        with self._lock:
            met = self._met.get(fault)
            if met is not None and now < met.again_at:
                met.unsaid += 1
                return
            unsaid = met.unsaid if met is not None else 0
            self._met[fault] = _Met(now + _PAUSE_SECONDS)
            self._met.move_to_end(fault)
            while len(self._met) > _MAX_FAULTS:
                self._met.popitem(last=False)
        more = {"unsaid": unsaid} if unsaid else {}
        log.error(
            "model_raised",
            model=model,
            verb=verb,
            error=error_text(error),
            at=place_of_error(error) or place_of_verb(handler, verb),
            traceback=traceback_of(error),
            **facts,
            **more,
        )


def error_text(error: BaseException) -> str:
    """`Type: message`, or the message alone of an error that says it all; bounded."""
    text = text_of(error)[:_MAX_TEXT]
    return text if issubclass(type(error), FleetError) else f"{name_of(error)}: {text}"


def error_at(error: BaseException) -> str:
    """The same with the line of the model's code, for operators."""
    text, place = error_text(error), place_of_error(error)
    return text if not place or issubclass(type(error), FleetError) else f"{text} ({place})"


def traceback_of(error: BaseException) -> str:
    """Its traceback, the last part of a long one; says so where it cannot be formatted."""
    try:
        text = "".join(traceback.format_exception(error, limit=-50, chain=True))
    except BaseException:  # noqa: BLE001 - the error's own methods may raise anything
        text = "".join(traceback.format_tb(error.__traceback__)) + name_of(error)
    return text[-_MAX_TRACEBACK:].encode("utf-8", "replace").decode()


def _place(error: BaseException) -> str:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}" if last is not None else ""


RAISED = RaisedLog()
"""The process's."""
