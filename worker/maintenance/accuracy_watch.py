"""Makes the verdicts that are missing, one model at a time, after the models serve.

The child that compares runs at the lowest priority and on one thread. A model whose verdict is bad
is taken out of service; its jobs in hand still run on it.
"""

from __future__ import annotations

from worker.checking.gate import Gate
from worker.maintenance.caretaker import Caretaker
from worker.residency.model_host import ModelHost

_LOOK_SECONDS = 1.0


class AccuracyWatch(Caretaker):
    """Looks for loaded models without a verdict; each is tried once in a process' life."""

    def __init__(self, gate: Gate, models: ModelHost) -> None:
        super().__init__("accuracy-watch")
        self._gate = gate
        self._models = models
        self._tried: set[str] = set()

    def interval(self) -> float:
        """One second."""
        return _LOOK_SECONDS

    def run_once(self) -> None:
        """Make one verdict that is missing, if there is one."""
        if self._gate.mode != "background" or self._models.is_starting():
            return
        for name, resident in self._models.residency.models.items():
            if resident.handler is None or name in self._tried:
                continue
            self._tried.add(name)
            if self._gate.concerns(resident.spec) and self._gate.verdict(resident.spec) is None:
                self._judge(name)
                return

    def _judge(self, name: str) -> None:
        spec = self._models.residency.models[name].spec
        verdict = self._gate.make(spec, self._stopping.is_set)
        if self._stopping.is_set():
            return
        if refusal := self._gate.heed(spec, verdict):
            self._models.take_out(name, refusal)
