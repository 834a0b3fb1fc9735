"""Turns messages into a prompt by the model's own template, in a child process with limits.

The child is started with the first messages and kept. One that takes too long is killed, and the
next messages start another: templates are code, and what they do depends on what clients send.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.errors import InvalidInput

__all__ = ("ChatTemplate", "read_template")

_START_SECONDS = 20.0
_PROGRAM = Path(__file__).with_name("template_child.py")
_MAX_CHARACTERS = 16 * 1024 * 1024
"""Longest filled template that is read from the child."""


class ChatTemplate:
    """One template. Any thread may call it; one is served at a time."""

    def __init__(self, source: str, seconds: float, memory_mb: int) -> None:
        self._source = source
        self._seconds = seconds
        self._memory_mb = memory_mb
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def fill(self, messages: Sequence[Mapping[str, Any]], names: Mapping[str, Any]) -> str:
        """The prompt. Raises InvalidInput where the template refuses, fails or takes too long."""
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                self._start()
            try:
                filled = self._ask(
                    {**names, "messages": messages, "add_generation_prompt": True}, self._seconds
                )
            except TimeoutError as exc:
                self.close()
                raise InvalidInput(
                    f"the model's chat template took longer than {self._seconds:g} s for these "
                    "messages; send fewer or shorter ones, or a prompt"
                ) from exc
            except (OSError, EOFError) as exc:
                self.close()
                raise InvalidInput(
                    "the model's chat template could not be filled with these messages: its "
                    "process ended, which is what too much memory looks like too"
                ) from exc
        if "text" not in filled:
            raise InvalidInput(f"the model's chat template says: {filled.get('error')}")
        return str(filled["text"])

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        child.wait()

    def _start(self) -> None:
        self.close()
        self._buffer = b""
        # Nothing of this process' environment: it has addresses and keys.
        self._child = subprocess.Popen(
            [sys.executable, "-I", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            bufsize=0,
        )
        assert self._child.stdin is not None
        os.set_blocking(self._child.stdin.fileno(), False)
        try:
            found = self._ask(
                {
                    "template": self._source,
                    "memory_mb": self._memory_mb,
                    "seconds": self._seconds,
                },
                _START_SECONDS,
            )
        except (TimeoutError, OSError, EOFError) as exc:
            self.close()
            raise InvalidInput(
                "the model's chat template cannot be compiled within its limits of time and memory"
            ) from exc
        if "ready" not in found:
            self.close()
            raise InvalidInput(
                f"the model's chat template cannot be compiled: {found.get('error')}"
            )

    def _ask(self, question: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Raises TimeoutError, EOFError, OSError."""
        deadline = time.monotonic() + seconds
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        unsent = json.dumps(question).encode() + b"\n"
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            writing = [child.stdin] if unsent else []
            readable, writable, _ = select.select([child.stdout], writing, [], max(0.0, left))
            if not readable and not writable:
                raise TimeoutError
            if writable:
                unsent = unsent[os.write(child.stdin.fileno(), unsent[:65_536]) :]
            if readable:
                self._buffer += self._read(child.stdout.fileno())
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _read(self, pipe: int) -> bytes:
        found = os.read(pipe, 65_536)
        if not found or len(self._buffer) > _MAX_CHARACTERS:
            raise EOFError
        return found


def read_template(folder: Path) -> str | None:
    """The folder's template: chat_template.jinja, else that of tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
    if isinstance(found, list):  # several, by name
        named = {one.get("name"): one.get("template") for one in found}
        found = named.get("default")
    return found if isinstance(found, str) else None
