"""How long each verb of a model may take: the catalog's figure, else the setting's; 0 is off.

And how large what it returns may be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import inf
from typing import Literal

from common.catalog import ModelSpec
from common.settings import Settings

Verb = Literal[
    "load",
    "warm-up",
    "unload",
    "infer",
    "encode",
    "decode",
    "admit",
    "step",
    "drop",
    "text",
    "shadow",
]
"""What a limit is for. `decode` covers `cost`; `warm-up` is `example` and one job through the other
verbs, and has the limit of `load`. `admit` and `drop` have that of `step`, and `text` that of
`encode`. `shadow` is one batch of a shadow through all verbs, and has a limit of its own beside
that of `infer`."""
_LIMITED_AS: Mapping[Verb, Verb] = {
    "warm-up": "load",
    "admit": "step",
    "drop": "step",
    "text": "encode",
    "shadow": "infer",
}

_LONGEST_LOOK_SECONDS = 1.0
_LOOKS_PER_LIMIT = 4


class VerbLimits:
    """The limits of the models of one worker, in seconds."""

    def __init__(self, settings: Settings) -> None:
        self._default = {
            "load": settings.load_timeout_seconds,
            "decode": settings.decode_timeout_seconds,
            "infer": settings.infer_timeout_seconds,
            "encode": settings.encode_timeout_seconds,
            "step": settings.step_timeout_seconds,
            "unload": settings.unload_timeout_seconds,
        }
        self._shadow = settings.shadow_timeout_seconds or inf
        self.result_bytes = settings.max_result_bytes
        """Largest result of one job, as JSON."""

    def of(self, verb: Verb, spec: ModelSpec) -> float:
        """The limit of one call; infinite where it is off."""
        name = _LIMITED_AS.get(verb, verb)
        own: float | None = getattr(spec, f"{name}_timeout_seconds")
        limit = (self._default[name] if own is None else own) or inf
        return min(limit, self._shadow) if verb == "shadow" else limit

    def look_seconds(self, specs: Collection[ModelSpec]) -> float:
        """How often to look at calls, so that none exceeds its limit by much."""
        verbs: tuple[Verb, ...] = ("load", "decode", "infer", "encode", "step", "unload")
        limits = [self.of(verb, one) for one in specs for verb in verbs]
        limits += [self._shadow] if any(one.shadow for one in specs) else []
        shortest = min(limits, default=inf)
        return min(_LONGEST_LOOK_SECONDS, shortest / _LOOKS_PER_LIMIT)
