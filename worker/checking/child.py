"""Starts the child that checks a model, and tells in one sentence how it ended, whatever it did."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO, Any

from common import processes
from common.errors import FleetError
from worker.checking.fault import Fault
from worker.models.place import place_in_dump

__all__ = ("CheckFailed", "Outcome", "run_child")

_PROGRAM = "worker.checking"
_DUMP_SECONDS = 5.0
_GROUP_SECONDS = "1"
_SAID_CHARACTERS = 300


class CheckFailed(FleetError):
    """The model did not pass; the message is for its author."""

    code = "check_failed"


@dataclass(slots=True)
class Outcome:
    """What the child said."""

    found: dict[str, Any] | None = None
    fault: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Heard:
    verb: str = "load"
    where: str = ""
    outcome: Outcome = field(default_factory=Outcome)


def run_child(
    request: Mapping[str, Any],
    *,
    silent_seconds: float,
    seconds: float = float("inf"),
    environment: Mapping[str, str] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run it to its end.

    silent_seconds: how long it may run no Python code; seconds: how long it may take in all.
    stopping: asked now and then; the child is killed where it says so, and there is no outcome.
    """
    command = [sys.executable, "-I", processes.__file__, "--group", _GROUP_SECONDS]
    command += [sys.executable, "-m", _PROGRAM, json.dumps(dict(request))]
    with TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **(environment or {})},
        ) as child:
            heard = _Heard()
            assert child.stdout is not None
            assert child.stdin is not None
            ended = _listen(child.stdout, heard, silent_seconds, seconds, stopping)
            if not ended:
                child.stdin.close()  # the watcher ends the whole group
            status = child.wait()
        errors.seek(0)
        said = errors.read()
    outcome = heard.outcome
    if not ended and not outcome.fault:
        where = place_in_dump(said, heard.where.partition(":")[0]) or heard.where
        what = _late(heard.verb, silent_seconds, seconds)
        outcome.found, outcome.fault = None, Fault(what, heard.verb, where).sentence()
    elif outcome.found is None and not outcome.fault:
        outcome.fault = _end(heard, status, said)
    return outcome


def _late(verb: str, silent_seconds: float, seconds: float) -> str:
    return (
        f"{verb} ran no Python code for {silent_seconds:g} s, or all of it took longer than "
        f"{seconds:g} s"
    )


def _listen(
    stream: IO[bytes],
    heard: _Heard,
    silent_seconds: float,
    seconds: float,
    stopping: Callable[[], bool],
) -> bool:
    """Take in its lines; False where it has to be ended."""
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="check-lines", daemon=True).start()
    end = time.monotonic() + seconds
    spoke = time.monotonic()
    while True:
        now = time.monotonic()
        if now >= end or now - spoke >= silent_seconds or stopping():
            return False
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            continue
        if line is None:
            return True
        spoke = time.monotonic()
        _take(json.loads(line), heard)


def _take(line: Mapping[str, Any], heard: _Heard) -> None:
    outcome = heard.outcome
    if "verb" in line:
        heard.verb, heard.where = line["verb"], line["where"] or heard.where
    elif "forked" in line:
        note = f"{line['forked']} forked the process; a worker ends such copies"
        if note not in outcome.notes:
            outcome.notes.append(note)
    elif "fault" in line:
        outcome.fault = line["fault"]
    elif "found" in line:
        outcome.found = line["found"]


def _end(heard: _Heard, status: int, said: str) -> str:
    """A sentence on a child that ended without one of its own."""
    number = -status if status < 0 else 256 - status if status > 192 else 0
    try:
        how = f"killed by {signal.Signals(number).name}" if number else f"with status {status}"
    except ValueError:
        how = f"with status {status}"
    where = place_in_dump(said, heard.where.partition(":")[0]) or heard.where
    if heard.verb == "import" and not number:
        return f"it ended its process while it was imported, {how}: {said[-_SAID_CHARACTERS:]}"
    return Fault(f"{heard.verb} ended the process, {how}", heard.verb, where).sentence()
