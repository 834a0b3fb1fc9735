"""A server that the worker starts: one program per device, started again when it ends.

It runs below a watcher (common/processes.py), which ends its whole process group when this process
is gone, by any signal. It gets few variables of ours: no address of a queue, no key, no proxy. What
it prints goes to the log, a bounded part of it.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import structlog

from common import processes
from worker.models.generation.server_options import ServerOptions

log = structlog.get_logger(__name__)

_KEPT = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH"}
    | {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES"}
    | {"OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE", "XDG_CACHE_HOME", "VIRTUAL_ENV"}
)
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_STEADY_SECONDS = 60.0
"""A program that ran for so long is started again without a pause."""
_LINE_BYTES = 2_000
_LINES_A_SECOND = 20
_BURST_LINES = 400
_LAST_LINES = 8
_LOOK_SECONDS = 0.2
_FULL_SECONDS = 0.05
"""Until a program that has printed too much is read on."""
_GRACE_SECONDS = 5.0


class Address(NamedTuple):
    """Where a server listens."""

    url: str
    socket: str = ""
    """A path; empty where it listens on a port."""


class OutputLog:
    """Writes the lines of a program to the log: cut, without its key, and not more than so many."""

    def __init__(
        self, model: str, secret: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._last: deque[bytes] = deque(maxlen=_LAST_LINES)
        self._model, self._secret, self._clock = model, secret, clock
        self._left, self._at, self._unsaid = float(_BURST_LINES), clock(), 0
        self._rest = b""
        self._cut = False
        """Whether the rest of the line is left out."""
        self._most_bytes = _LINE_BYTES + len(secret)
        """Kept of a line: what is cut off must not begin within the key."""

    @property
    def last(self) -> list[str]:
        """The last lines, for the sentence that tells why it ended."""
        return [text for line in self._last if (text := self._text(line))]

    @property
    def is_full(self) -> bool:
        """Whether the next line will be left out."""
        return self._left < 1

    def feed(self, chunk: bytes) -> None:
        """Write the lines that these bytes end, as many as there may be; the others are counted."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if self._cut and lines:
            del lines[0]
            self._cut = False
        if self._cut:
            self._rest = b""
            self._left -= 1  # a line without an end is no way around the limit
        elif len(self._rest) >= self._most_bytes:
            lines, self._rest, self._cut = [*lines, self._rest], b"", True
        now = self._clock()
        self._left = min(_BURST_LINES, self._left + (now - self._at) * _LINES_A_SECOND)
        self._at = now
        room = int(self._left)
        for line in lines[:room]:
            self._write(line)
        unsaid = lines[room:]
        self._unsaid += len(unsaid)
        self._last.extend(unsaid[-_LAST_LINES:])

    def _text(self, line: bytes) -> str:
        text = line[: self._most_bytes].decode("utf-8", "replace").strip()
        text = "".join(one for one in text if one.isprintable())
        return text.replace(self._secret, "***")[:_LINE_BYTES]

    def _write(self, line: bytes) -> None:
        text = self._text(line)
        if not text:
            return
        self._last.append(line)
        self._left -= 1
        more = {"unsaid": self._unsaid} if self._unsaid else {}
        self._unsaid = 0
        log.info("server_said", model=self._model, line=text, **more)


def environment_of(
    options: ServerOptions, ours: Mapping[str, str], key_variable: str, words: Mapping[str, str]
) -> dict[str, str]:
    """The variables of the program; `words` are what placeholders stand for."""
    found = {name: its for name, its in ours.items() if name in _KEPT or name.startswith("LC_")}
    if key_variable:
        found[key_variable] = words["api_key"]
    return found | {name: fill(its, words) for name, its in options.environment.items()}


def fill(text: str, words: Mapping[str, str]) -> str:
    """The text with `{port}` and the like replaced; other braces stay, as JSON has them."""
    for name, value in words.items():
        text = text.replace(f"{{{name}}}", value)
    return text


class Child:
    """Keeps the program running on a thread, until it is stopped."""

    def __init__(
        self,
        model: str,
        device: str,
        options: ServerOptions,
        key_variable: str,
        api_key: str,
        *,
        on_start: Callable[[Address], None],
        on_end: Callable[[], None],
    ) -> None:
        """on_start is told where it will listen; both are called on the child's thread."""
        self._model, self._options = model, options
        self._key_variable = key_variable
        self._words = {"api_key": api_key, "device": device}
        self._on_start, self._on_end = on_start, on_end
        self._folder = tempfile.TemporaryDirectory(prefix="lanefleet-server-")
        self._stopping = threading.Event()
        self._watcher: subprocess.Popen[bytes] | None = None
        self.began = 0.0
        """When it was started last, steady time."""
        self.ended = ""
        """How it ended last, with the last lines that it printed; empty before it did."""
        # The system ends a child with the *thread* that started it, so one thread does that.
        self._thread = threading.Thread(target=self._run, name=f"server-{model}", daemon=True)

    def start(self) -> None:
        """Start it; returns at once."""
        self._thread.start()

    def end(self) -> None:
        """End it, because it hangs; it is started again."""
        if (watcher := self._watcher) is not None:
            watcher.terminate()

    def stop(self) -> None:
        """End it for good, and wait for that."""
        self._stopping.set()
        self.end()
        if self._thread.is_alive():
            self._thread.join(self._options.stop_seconds + _GRACE_SECONDS)
        self._folder.cleanup()

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            self.began = time.monotonic()
            output = OutputLog(self._model, self._words["api_key"])
            try:
                status: object = self._run_once(output)
            except OSError as exc:
                status = exc.strerror
            except Exception as exc:
                log.exception("server_lost_to_a_fault_of_ours", model=self._model)
                status = type(exc).__name__
            steady = time.monotonic() - self.began >= _STEADY_SECONDS
            pause = 0.0 if steady else pause
            pause = min(max(_FIRST_PAUSE_SECONDS, 2 * pause), _LONGEST_PAUSE_SECONDS)
            said = " | ".join(output.last) or "it printed nothing"
            self.ended = f"the server ended ({status}); its last lines: {said}"[:2_000]
            if not self._stopping.is_set():
                log.error("server_ended", model=self._model, status=status, pause_seconds=pause)
            self._on_end()

    def _run_once(self, output: OutputLog) -> int:
        address, command, environment = self._prepare()
        watcher = subprocess.Popen(
            [
                *(sys.executable, "-I", processes.__file__),
                *("--group", str(self._options.stop_seconds)),
                *command,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        self._watcher = watcher
        log.info("server_started", model=self._model, pid=watcher.pid, program=command[0])
        self._on_start(address)
        if self._stopping.is_set():
            watcher.terminate()
        try:
            self._read(watcher, output)
            return watcher.wait()
        finally:
            for pipe in (watcher.stdin, watcher.stdout):
                if pipe is not None:
                    pipe.close()

    def _read(self, watcher: subprocess.Popen[bytes], output: OutputLog) -> None:
        """Read what it prints until it has ended; others may hold the pipe open for longer."""
        assert watcher.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(watcher.stdout, selectors.EVENT_READ)
            ended = False
            while True:
                readable = selector.select(0 if ended else _LOOK_SECONDS)
                chunk = os.read(watcher.stdout.fileno(), 65_536) if readable else b""
                output.feed(chunk)
                if not chunk and (ended or readable):
                    return
                if output.is_full:  # who prints without an end waits, and costs nobody else
                    self._stopping.wait(_FULL_SECONDS)
                ended = watcher.poll() is not None

    def _prepare(self) -> tuple[Address, list[str], dict[str, str]]:
        options, path = self._options, str(Path(self._folder.name) / "socket")
        port = _free_port()
        words = {**self._words, "port": str(port), "socket": path}
        by_socket = any("{socket}" in one for one in options.command)
        if by_socket:
            Path(path).unlink(missing_ok=True)
        address = (
            Address("http://localhost", path) if by_socket else Address(f"http://127.0.0.1:{port}")
        )
        command = [fill(one, words) for one in options.command]
        return address, command, environment_of(options, os.environ, self._key_variable, words)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
