"""A classifier whose versions differ on a known share of inputs, and that misbehaves as told."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from common.catalog import ModelSpec

WORDS = ("cat", "dog", "owl")


def label_of(value: Any, version: str) -> str:
    """The first label; version 2 differs from version 1 on three of ten numbers."""
    number = value if isinstance(value, int) else len(str(value))
    differs = version == "2" and number * 7919 % 10 < 3
    return WORDS[(number + differs) % 3]


class Version:
    """options: broken (it cannot be loaded), batch_ms, fault: raises, oom (any batch above one),
    bad (on one of eight inputs), unequal (results of another form), hangs or dies (as one whose
    memory ran out).
    """

    def load(self, spec: ModelSpec, device: str) -> None:
        if spec.options.get("broken"):
            raise ValueError("broken on request")
        self._version = spec.version
        self._fault = spec.options.get("fault")
        self._seconds = spec.options.get("batch_ms", 0) / 1000

    def decode(self, value: Any, params: Mapping[str, Any]) -> tuple[str, Any]:
        return self._version, value

    def cost(self, item: Any) -> float:
        return 1.0

    def infer(self, items: Sequence[tuple[str, Any]]) -> list[Any]:
        assert {version for version, _ in items} == {self._version}, "decoded for another version"
        if self._fault == "hangs":
            threading.Event().wait(600)
        if self._fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "raises":
            raise RuntimeError("on request")
        if self._fault == "oom" and len(items) > 1:
            raise RuntimeError("CUDA out of memory (on request)")
        if self._fault == "bad" and any(value % 8 == 0 for _, value in items):
            raise ValueError("one of these")
        time.sleep(self._seconds)
        return [value for _, value in items]

    def encode(self, output: Any) -> Any:
        if self._fault == "unequal":
            return {"other": [output]}
        label = label_of(output, self._version)
        return {"labels": [{"label": label, "score": 0.8}], "version": self._version}
