"""Handlers for fault tests: they write down every execution, and misbehave on request."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common.catalog import ModelSpec
from common.errors import InvalidInput
from worker.transfer import Later


class Recorder:
    """Appends `<input> <pid>` to the ledger file for every item that it runs.

    params: sleep_ms, spin_ms (pure Python), until (a file exists), die (SIGKILL ourselves),
    fail, oom_above.
    """

    def load(self, spec: ModelSpec, device: str) -> None:
        self._ledger = Path(spec.options["ledger"])

    def decode(self, value: Any, params: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        if params.get("refuse"):
            raise InvalidInput(params["refuse"])
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
        for gate in {Path(params["until"]) for _, params in items if "until" in params}:
            while not gate.exists():
                threading.Event().wait(0.02)
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


class Looker:
    """Decodes pictures to their size, and answers anything else as it is.

    options: names (name -> its answers to the first, the second, ... question) are resolved
    so in this process; connections (a file) gets a line for each that the process opens.
    params: hang, fail.
    """

    def load(self, spec: ModelSpec, device: str) -> None:
        if connections := spec.options.get("connections"):
            witness_connections(Path(connections))
        if names := spec.options.get("names"):
            lie_about(names)

    def decode(self, value: Any, params: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        if params.get("hang"):
            threading.Event().wait(60)
        if not isinstance(value, bytes):
            return value, params
        from worker.models.images import decode_rgb

        return list(decode_rgb(value).shape), params

    def cost(self, item: Any) -> float:
        return 1.0

    def infer(self, items: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[Any]:
        for _, params in items:
            if params.get("fail"):
                raise RuntimeError(params["fail"])
        return [value for value, _ in items]

    def encode(self, output: Any) -> Any:
        return output


def witness_connections(ledger: Path) -> None:
    """Write down every address that this process connects a socket to."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            with ledger.open("a") as stream:
                stream.write(f"{args[1]!r}\n")

    sys.addaudithook(hook)


def lie_about(names: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Resolve these names as told, all others as ever."""
    honest, asked = socket.getaddrinfo, Counter[str]()

    def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in names:
            return honest(host, port, *args, **kwargs)
        answers = names[host][min(asked[host], len(names[host]) - 1)]
        asked[host] += 1
        return [
            (
                socket.AF_INET6 if ":" in one else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (one, port),
            )
            for one in answers
        ]

    socket.getaddrinfo = resolve


class Flying:
    """A device that works by itself, one batch after the other, `batch_ms` each.

    Answers how many batches were in flight when its own was started. params:
    fail_later (the device fails), fail_now (the start of the batch does).
    """

    def load(self, spec: ModelSpec, device: str) -> None:
        self._seconds = spec.options.get("batch_ms", 0) / 1000
        self._device = ThreadPoolExecutor(1)
        self._in_flight = 0

    def decode(self, value: Any, params: Mapping[str, Any]) -> Mapping[str, Any]:
        return params

    def cost(self, item: Any) -> float:
        return 1.0

    def infer(self, items: Sequence[Mapping[str, Any]]) -> Later:
        if any(params.get("fail_now") for params in items):
            raise RuntimeError("CUDA out of memory (on request)")
        self._in_flight += 1
        flight = self._device.submit(self._run, list(items), self._in_flight)

        def wait() -> list[int]:
            try:
                return flight.result()
            finally:
                self._in_flight -= 1

        return Later(flight.done, wait, lambda: self._seconds)

    def _run(self, items: list[Mapping[str, Any]], in_flight: int) -> list[int]:
        time.sleep(self._seconds)
        if any(params.get("fail_later") for params in items):
            raise ValueError("the device failed")
        return [in_flight] * len(items)

    def encode(self, output: Any) -> Any:
        return output


class Deadly:
    """Ends its process: options `load: N` exit with this status while it loads, `thread` leaves one
    running that a process must wait for.

    params: fork (`back`: its copy comes back; `stay`: it sleeps), fork_in_encode, exit (a
    status, in infer), exit_in_decode, hang (in infer), grow (MB to keep).
    """

    def load(self, spec: ModelSpec, device: str) -> None:
        if "load" in spec.options:
            os._exit(spec.options["load"])
        if "thread" in spec.options:
            threading.Thread(target=threading.Event().wait, args=(600,), daemon=False).start()
        self._kept: list[bytes] = []

    def decode(self, value: Any, params: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        if "exit_in_decode" in params:
            os._exit(params["exit_in_decode"])
        return value, params

    def cost(self, item: Any) -> float:
        return 1.0

    def infer(self, items: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[Any]:
        for _, params in items:
            if "fork" in params and os.fork() == 0 and params["fork"] == "stay":
                time.sleep(600)
            if "exit" in params:
                os._exit(params["exit"])
            if "hang" in params:
                threading.Event().wait(60)
            if "grow" in params:
                self._kept.append(os.urandom(params["grow"] * 2**20))
        self._forks = any("fork_in_encode" in params for _, params in items)
        return [os.getpid() for _ in items]

    def encode(self, output: Any) -> Any:
        if self._forks:
            os.fork()
            return os.getpid()
        return output


class Lengths:
    """Vectors without a model: the length of the text, then 1."""

    def load(self, spec: ModelSpec, device: str) -> None: ...

    def decode(self, value: Any, params: Mapping[str, Any]) -> Any:
        return value

    def cost(self, item: Any) -> float:
        return 1.0

    def infer(self, items: Sequence[Any]) -> Sequence[dict[str, Any]]:
        return [{"embedding": [float(len(item)), 1.0], "tokens": len(item)} for item in items]

    def encode(self, output: Any) -> Any:
        return output

    def unload(self) -> None: ...
