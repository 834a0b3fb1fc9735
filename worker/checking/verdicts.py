"""The verdicts on models that are not their own fp32 reference, kept as a JSON file each.

A file's name is the digest of all that the figures depend on. So what changes any of it (weights,
backend, processor, a library, the samples' path) finds no verdict, and makes a new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from common.catalog import ModelSpec

__all__ = ("DEFAULT_TOLERANCES", "SLOW", "Verdict", "Verdicts", "key_of")

DEFAULT_TOLERANCES: Mapping[str, float] = {"min cosine": 0.99, "top-1": 0.95, "boxes": 0.95}
SLOW = 1.0
"""Below this ratio a mode is slower than fp32."""
_DIGEST_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a model compared with its reference."""

    model: str
    mode: str
    """Its backend and precision: `onnx int8`."""
    measure: str
    agreement: float
    mean: float
    samples: int
    ratio: float
    """Items per CPU second against the reference, one thread."""
    reference: str = ""
    note: str = ""
    made_at: float = 0.0
    machine: Mapping[str, Any] | None = None
    trouble: str = ""
    """Why it could not be compared; the figures say nothing then."""

    @classmethod
    def unknown(cls, model: str, mode: str, trouble: str) -> Verdict:
        """One without figures."""
        return cls(model, mode, "", 0.0, 0.0, 0, 1.0, trouble=trouble)

    def tolerance(self, asked: float | None) -> float:
        """The least agreement: the catalog's, else the measure's."""
        return DEFAULT_TOLERANCES.get(self.measure, 0.99) if asked is None else asked

    def refusal(self, spec: ModelSpec) -> str:
        """Why the model may not serve; empty where it may."""
        least = self.tolerance(spec.tolerance)
        if self.trouble or self.agreement >= least:
            return ""
        return (
            f"models.{spec.name}: {self.mode} gives {self.measure} {self.agreement:.4f} with "
            f"{self.reference} on {self.samples} samples, below its tolerance {least:g}; take "
            "another precision or backend, or lower `tolerance`"
        )

    def warning(self) -> str:
        """What an operator should know of a model that serves; empty where there is nothing."""
        if self.trouble:
            return f"{self.model}: its accuracy is not known: {self.trouble}"
        if self.ratio >= SLOW:
            return ""
        return (
            f"{self.model}: {self.mode} runs at {self.ratio:.2f}x the speed of {self.reference} "
            "on this machine; fp32 would be faster"
        )


def key_of(spec: ModelSpec, weights_digest: str, machine: Mapping[str, Any], device: str) -> str:
    """The digest of what a verdict depends on."""
    parts = [
        *(weights_digest, spec.handler_path, spec.backend, spec.precision, list(spec.providers)),
        *(spec.options, spec.samples, spec.reference, device.partition(":")[0], machine),
    ]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]


class Verdicts:
    """The files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, key: str) -> Verdict | None:
        """The verdict; None where there is none that can be read."""
        try:
            found = json.loads(self._path(key).read_text(encoding="utf-8"))
            known = {one.name for one in fields(Verdict)}
            verdict = Verdict(**{name: found[name] for name in known & found.keys()})
            return verdict if isinstance(verdict.agreement, int | float) else None
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def write(self, key: str, verdict: Verdict) -> None:
        """Keep it; whole or not at all. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        scratch = self._folder / f".{key}.{os.getpid()}"
        try:
            text = json.dumps({**asdict(verdict), "made_at": time.time()}, indent=1)
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(self._path(key))
        finally:
            with suppress(OSError):
                scratch.unlink()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"
