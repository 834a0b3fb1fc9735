"""Handlers for fault tests: they write down every execution, and misbehave on request."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.catalog import ModelSpec


class Recorder:
    """Appends `<input> <pid>` to the ledger file for every item that it runs.

    params: sleep_ms, spin_ms (pure Python), die (SIGKILL ourselves), fail, oom_above.
    """

    def load(self, spec: ModelSpec, device: str) -> None:
        self._ledger = Path(spec.options["ledger"])

    def decode(self, value: Any, params: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        if params.get("bad"):
            raise ValueError("this input cannot be decoded")
        if params.get("hang"):
            threading.Event().wait(60)
        return value, params

    def cost(self, item: Any) -> float:
        return 1.0

    def infer(self, items: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[Any]:
        with self._ledger.open("a") as ledger:
            ledger.write("".join(f"{value} {os.getpid()} {len(items)}\n" for value, _ in items))
        if any(params.get("die") for _, params in items):
            os.kill(os.getpid(), signal.SIGKILL)
        cap = min((params["oom_above"] for _, params in items if "oom_above" in params), default=0)
        if cap and len(items) > cap:
            raise RuntimeError("CUDA out of memory (on request)")
        for _, params in items:
            if params.get("fail"):
                raise RuntimeError(params["fail"])
        # Not time.sleep: libfaketime makes it fail with EINVAL.
        threading.Event().wait(max((p.get("sleep_ms", 0) for _, p in items), default=0) / 1000)
        spin_until = time.monotonic() + max(p.get("spin_ms", 0) for _, p in items) / 1000
        while time.monotonic() < spin_until:
            sum(range(1000))
        return [value for value, _ in items]

    def encode(self, output: Any) -> Any:
        if output == "nan":
            return float("nan")
        return output


class Paced:
    """Takes `load_ms` to load and `batch_ms` for any batch; answers its version and the input."""

    def load(self, spec: ModelSpec, device: str) -> None:
        self._version, self._options = spec.version, spec.options
        time.sleep(spec.options.get("load_ms", 0) / 1000)
        self._cold = True

    def example(self) -> Any:
        return "example"

    def decode(self, value: Any, params: Mapping[str, Any]) -> tuple[str, Any]:
        return self._version, value

    def cost(self, item: Any) -> float:
        return 1.0

    def infer(self, items: Sequence[tuple[str, Any]]) -> list[Any]:
        cold, self._cold = self._cold, False
        time.sleep(self._options.get("cold_ms" if cold else "batch_ms", 0) / 1000)
        assert {version for version, _ in items} == {self._version}, "decoded for another model"
        return [{"version": self._version, "value": value} for _, value in items]

    def encode(self, output: Any) -> Any:
        return output
