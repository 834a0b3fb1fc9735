"""Calls a model's verbs in the child: each is told to the parent, bounded, and its fault placed."""

from __future__ import annotations

import inspect
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson

from common.catalog import ModelSpec
from common.errors import FleetError, InvalidInput
from common.jobs.result_document import dump_result
from worker.checking.fault import Fault, fault_of
from worker.jobs.execution import Execution
from worker.jobs.steps import accept
from worker.models.base import Model
from worker.models.place import place_in_stack, place_of_error, place_of_verb, returns_of
from worker.transfer import Later

__all__ = ("Say", "Verbs", "Watch")

T = TypeVar("T")
Say = Callable[[Mapping[str, Any]], None]

_LOOK_SECONDS = 0.1
_ALIVE_SECONDS = 1.0


class Watch:
    """Knows which verb runs since when; ends the process where one exceeds its limit."""

    def __init__(self, say: Say, limit_of: Callable[[str], float]) -> None:
        self._say = say
        self._limit_of = limit_of
        self._call: tuple[str, float] | None = None
        self._said = ("", "")
        self._thread = threading.main_thread()
        self.module = ""
        """The file of the handler's class."""

    def start(self) -> None:
        """Start looking."""
        threading.Thread(target=self._run, name="check-watch", daemon=True).start()

    def run(self, verb: str, where: str, call: Callable[[], T]) -> T:
        """Call it. Raises Fault where it raises, but for InvalidInput."""
        if (verb, where) != self._said:
            self._said = (verb, where)
            self._say({"verb": verb, "where": where})
        pid, self._call = os.getpid(), (verb, time.monotonic())
        try:
            return call()
        except InvalidInput:
            raise
        except BaseException as exc:
            raise fault_of(exc, verb, place_of_error(exc, self.module) or where) from exc
        finally:
            self._call = None
            if os.getpid() != pid:
                self._say({"forked": verb, "where": where})
                os._exit(0)

    def _run(self) -> None:
        spoke = 0.0
        while True:
            time.sleep(_LOOK_SECONDS)
            now, call = time.monotonic(), self._call
            if now - spoke >= _ALIVE_SECONDS:
                spoke = now
                self._say({"alive": True})
            if call is None or now - call[1] <= self._limit_of(call[0]):
                continue
            stack = sys._current_frames().get(self._thread.ident or 0)
            where = place_in_stack(stack, self.module)
            what = f"{call[0]} did not end within {self._limit_of(call[0]):g} s; it hangs there"
            self._say({"fault": Fault(what, call[0], where or self._said[1]).sentence()})
            os._exit(3)


class Verbs:
    """One loaded model, by its verbs."""

    def __init__(self, handler: Model, spec: ModelSpec, watch: Watch) -> None:
        self.handler = handler
        self.spec = spec
        self._watch = watch
        self._places = {
            verb: place_of_verb(handler, verb)
            for verb in ("decode", "cost", "infer", "encode", "example")
        }

    def place(self, verb: str) -> str:
        """Where it is defined, as `praise.py:20`."""
        return self._places.get(verb, "")

    def run(self, verb: str, call: Callable[[], T]) -> T:
        """Any call that belongs to this verb."""
        return self._watch.run(verb, self.place(verb), call)

    def decode(self, value: Any) -> Any:
        """An item. Raises InvalidInput, or Fault."""
        return self.run("decode", lambda: self.handler.decode(value, {}))

    def cost(self, item: Any) -> float:
        """Its cost; raises Fault where that is no number, or none that can be added up."""
        with returns_of(self.handler, "cost") as line:
            found = self.run("cost", lambda: self.handler.cost(item))
        try:
            cost = float(found)
        except (TypeError, ValueError):
            cost = math.nan
        if not 0 <= cost < math.inf:
            raise Fault(f"cost returned {found!r:.80}", "cost", line())
        return cost

    def infer(self, items: Sequence[Any]) -> list[Any]:
        """One output for each item. Raises Fault for anything else."""
        batch = [Execution(b"", 1, 0, "check", 0.0) for _ in items]
        for execution, item in zip(batch, items, strict=True):
            execution.item = item
        with returns_of(self.handler, "infer") as line:
            outputs = self.run("infer", lambda: self._outputs(items))
        try:
            accept(batch, outputs)
        except FleetError as exc:
            raise Fault(str(exc), "infer", line()) from exc
        return [execution.output for execution in batch]

    def infer_fast(self, items: Sequence[Any]) -> None:
        """The same without looking at what it returns, to be timed."""
        self.run("infer", lambda: self._outputs(items))

    def encode(self, output: Any) -> Any:
        """The result. Raises Fault where JSON cannot represent it."""
        with returns_of(self.handler, "encode") as line:
            result = self.run("encode", lambda: self.handler.encode(output))
        try:
            return orjson.loads(dump_result(result))
        except BaseException as exc:
            raise Fault(f"encode returned no JSON: {exc}", "encode", line()) from exc

    def results(self, items: Sequence[Any]) -> list[Any]:
        """The results of one batch."""
        return [self.encode(output) for output in self.infer(items)]

    def _outputs(self, items: Sequence[Any]) -> Sequence[Any]:
        outputs = self.handler.infer(list(items))
        return outputs.wait() if isinstance(outputs, Later) else outputs


def module_file(handler: type) -> str:
    """The file of a class; empty where it has none."""
    try:
        return inspect.getfile(handler)
    except TypeError:
        return ""
