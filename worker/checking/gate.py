"""The accuracy gate: what a load does about the verdict on its model, and who makes one.

`off` reads and makes none. `background` lets a model without a verdict serve while a child makes
it. `require` makes it before the model loads. A model that is its own reference has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from common.settings import Settings
from worker.checking.child import run_child
from worker.checking.machine import machine_of
from worker.checking.reference import differs, mode_of, reference_of
from worker.checking.verdicts import Verdict, Verdicts, key_of
from worker.models import load_handler
from worker.models.base import Model
from worker.residency.weights_digests import WeightsDigests

__all__ = ("Gate", "make_verdict")

log = structlog.get_logger(__name__)

_FOLDER = "verdicts"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def make_verdict(
    spec: ModelSpec,
    reference: ModelSpec,
    settings: Settings,
    device: str,
    *,
    nice: bool = True,
    stopping: Callable[[], bool] = lambda: False,
    threads: int = 1,
) -> Verdict:
    """Compare the two in a child of so many threads; `trouble` says why that was not possible."""
    mode, compared_with = mode_of(spec), mode_of(reference)
    if reference.name != spec.name:
        compared_with = f"{reference.name} ({compared_with})"
    request = {
        "do": "compare",
        "spec": spec.model_dump(mode="json"),
        "reference": reference.model_dump(mode="json"),
        "device": device,
        "samples": settings.accuracy_gate_samples,
        "seconds": settings.accuracy_gate_seconds,
        "nice": nice,
    }
    outcome = run_child(
        request,
        silent_seconds=settings.frozen_seconds or float("inf"),
        seconds=settings.accuracy_gate_seconds,
        environment=dict.fromkeys(_THREADS, str(threads)),
        stopping=stopping,
    )
    if outcome.found is None:
        return Verdict.unknown(spec.name, mode, outcome.fault)
    found = {name: value for name, value in outcome.found.items() if name != "notes"}
    return Verdict(spec.name, mode, reference=compared_with, machine=machine_of(device), **found)


class Gate:
    """Of one worker process. Any thread may read `warnings`."""

    def __init__(self, settings: Settings, models: Mapping[str, ModelSpec], device: str) -> None:
        self._settings = settings
        self._models = models
        self._device = device
        self._verdicts = Verdicts(settings.state_dir / _FOLDER)
        self.digests = WeightsDigests(settings.state_dir / "digests.json")
        """The process's: what it has hashed for a verdict is not hashed again."""
        self._warnings: dict[str, str] = {}
        self.mode = settings.accuracy_gate

    def concerns(self, spec: ModelSpec) -> bool:
        """Whether this model needs a verdict."""
        return self.mode != "off" and self.differs(spec)

    @staticmethod
    def differs(spec: ModelSpec) -> bool:
        """Whether there is something else that it should agree with."""
        return differs(spec) or spec.reference is not None

    def guarded(self, load: Callable[[ModelSpec], Model]) -> Callable[[ModelSpec], Model]:
        """The same load, which raises ConfigurationError with the figure of a bad verdict."""

        def admit_and_load(spec: ModelSpec) -> Model:
            if self.concerns(spec):
                verdict = self.verdict(spec)
                if verdict is None and self.mode == "require":
                    verdict = self.make(spec)
                    if verdict.trouble:
                        raise ConfigurationError(
                            f"models.{spec.name}: LANEFLEET_ACCURACY_GATE=require, and its "
                            f"accuracy is not known: {verdict.trouble}"
                        )
                if verdict is not None:
                    self._heed(spec, verdict)
            return load(spec)

        return admit_and_load

    def verdict(self, spec: ModelSpec) -> Verdict | None:
        """The one that is kept for it."""
        try:
            return self._verdicts.read(self.key(spec))
        except (OSError, ConfigurationError):
            return None  # the load says what is wrong with its weights

    def key(self, spec: ModelSpec) -> str:
        """Under which its verdict is kept. Raises ConfigurationError, OSError."""
        load_handler(spec)  # the digest has the source in it, once it is imported
        digest = self.digests.make(spec, self.digests.files(spec)) or ""
        return key_of(spec, digest, machine_of(self._device), self._device)

    def make(self, spec: ModelSpec, stopping: Callable[[], bool] = lambda: False) -> Verdict:
        """Make the verdict and keep it; one with trouble is not kept."""
        log.info("accuracy_check_began", model=spec.name, mode=mode_of(spec))
        try:
            key, reference = self.key(spec), reference_of(spec, self._models)
        except ConfigurationError as exc:
            return Verdict.unknown(spec.name, mode_of(spec), str(exc))
        verdict = make_verdict(spec, reference, self._settings, self._device, stopping=stopping)
        if not verdict.trouble:
            try:
                self._verdicts.write(key, verdict)
            except OSError as exc:
                log.warning("verdict_not_kept", model=spec.name, error=str(exc))
            log.info(
                "accuracy_measured",
                model=spec.name,
                mode=verdict.mode,
                measure=verdict.measure,
                agreement=round(verdict.agreement, 5),
                ratio=verdict.ratio,
                samples=verdict.samples,
            )
        return verdict

    def heed(self, spec: ModelSpec, verdict: Verdict) -> str:
        """Why it may not serve, empty where it may; its warning is logged and shown."""
        warning = verdict.warning()
        self._warnings.pop(spec.name, None)
        if warning:
            self._warnings[spec.name] = warning
            log.warning("model_is_no_gain", model=spec.name, reason=warning)
        return verdict.refusal(spec)

    def _heed(self, spec: ModelSpec, verdict: Verdict) -> None:
        if refusal := self.heed(spec, verdict):
            raise ConfigurationError(refusal)

    def warnings(self) -> Mapping[str, str]:
        """By model, what an operator should know of its mode."""
        return dict(self._warnings)
