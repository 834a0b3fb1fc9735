"""Runs a program of ours that says what it does in JSON, a line each, and ends with this process.

The last line is its outcome. Everything else that it prints goes to standard error, of which the
end is told where it says nothing itself. It is ended by SIGTERM, which `end_by_exception` makes
an exception in it, so that what it has half made is removed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from tempfile import TemporaryFile
from types import FrameType
from typing import Any

from common import processes
from common.errors import FleetError

_SAID_CHARACTERS = 500


class ProgramFailed(FleetError):
    """The program could not do it; the message says why."""

    code = "program_failed"


def end_by_exception() -> None:
    """In such a program: SIGTERM raises KeyboardInterrupt, once."""

    def end(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what removes things is not interrupted
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


def lines_of(
    module: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> Generator[dict[str, Any]]:
    """What `python -m module arguments` says, line by line.

    Raises ProgramFailed where it says `{"error"}`, or ends with another status than 0.
    """
    # It holds the other end of a pipe of this process, and ends when that closes.
    command = [sys.executable, "-I", processes.__file__, sys.executable, "-m", module, *arguments]
    last: dict[str, Any] = {}
    with (
        TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(environment),
            text=True,
            process_group=0,  # a terminal's Ctrl-C is for us, who end it
        ) as child,
    ):
        assert child.stdout is not None
        # Whatever ends this closes its standard input, on which it is ended, and waits for it.
        for line in child.stdout:
            last = json.loads(line)
            yield last
        status = child.wait()
        errors.seek(0)
        said = errors.read().strip()
    if status or "error" in last:
        raise ProgramFailed(
            str(last.get("error") or said[-_SAID_CHARACTERS:] or f"it ended with status {status}")
        )


def outcome_of(
    module: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> dict[str, Any]:
    """The last line that it says; empty where it says nothing. Raises ProgramFailed."""
    last: dict[str, Any] = {}
    for last in lines_of(module, arguments, environment):  # noqa: B007 - the last is wanted
        pass
    return last
