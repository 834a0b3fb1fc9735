"""`python -m worker.checking REQUEST`: the child in which a model is checked or compared.

It says what it does in JSON lines on its standard output: the verb that runs, then what it found
or the fault. What the model prints goes to a file, of which the beginning is told.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from common.catalog import ModelSpec
from common.errors import FleetError
from common.settings import Settings, load_settings
from worker.checking.examining import compare_two, examine
from worker.checking.fault import Fault
from worker.checking.verbs import Say, Watch
from worker.devices.kept_memory import keep_freed
from worker.guard.limits import Verb, VerbLimits
from worker.models.weights import set_base

_LIMITED_AS: Mapping[str, Verb] = {"cost": "decode", "example": "warm-up", "import": "load"}
_PRINTED_CHARACTERS = 80


def main() -> int:
    """Returns the exit status: 0, or 2 with a fault."""
    request = json.loads(sys.argv[1])
    faulthandler.enable()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if request.get("nice"):
        os.nice(19)
    say, printed = _speech()
    try:
        settings = load_settings()
        keep_freed(settings.keep_freed_mb)
        set_base(settings.catalog.parent, settings.state_dir / "converted")
        found = _do(request, settings, say)
    except Fault as exc:
        say({"fault": exc.sentence()})
        return 2
    except (FleetError, OSError) as exc:
        say({"fault": str(exc)})
        return 2
    sys.stdout.flush()
    printed.seek(0)
    if text := printed.read(4 * _PRINTED_CHARACTERS).decode("utf-8", "replace").strip():
        first = text.splitlines()[0][:_PRINTED_CHARACTERS]
        found["notes"] = [*found["notes"], f"it prints, into the worker's log: {first!r}"]
    say({"found": found})
    return 0


def _speech() -> tuple[Say, BinaryIO]:
    """What writes a line for the parent, and the file to which all other output goes."""
    stream, lock = os.fdopen(os.dup(1), "wb", buffering=0), threading.Lock()
    printed = TemporaryFile("w+b")  # noqa: SIM115 - open as long as the process
    os.dup2(printed.fileno(), 1)

    def say(line: Mapping[str, Any]) -> None:
        with lock:
            stream.write(json.dumps(dict(line)).encode() + b"\n")

    return say, printed


def _do(request: Mapping[str, Any], settings: Settings, say: Say) -> dict[str, Any]:
    spec = ModelSpec.model_validate(request["spec"])
    limits, most = VerbLimits(settings), float(request.get("verb_seconds") or float("inf"))

    def limit_of(verb: str) -> float:
        return min(most, limits.of(_LIMITED_AS.get(verb, verb), spec))  # type: ignore[arg-type]

    watch = Watch(say, limit_of)
    watch.start()
    if request["do"] == "examine":
        return examine(spec, settings, watch, request["device"], request["seconds"])
    reference = ModelSpec.model_validate(request["reference"])
    return compare_two(reference, spec, settings, watch, request)


if __name__ == "__main__":
    status = main()
    with suppress(Exception):
        sys.stderr.flush()
    os._exit(status)  # threads that the model left running are not waited for
