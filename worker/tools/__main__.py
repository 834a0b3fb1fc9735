"""`python -m worker.tools TOOL ARGUMENTS`: one tool, whose arguments are a JSON object.

A module of this package that has `run(arguments, settings, progress) -> Report` is a tool.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from importlib import import_module
from importlib.util import find_spec

from common.errors import FleetError
from common.programs import end_by_exception
from common.settings import load_settings
from worker.models.mirror import mirror_of
from worker.models.place import place_of_error
from worker.models.weights import set_base
from worker.tools.report import Report, Speaker

_STOPPED = 130
_SAID_CHARACTERS = 400


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 2 with an error, 130 where it was stopped."""
    name, arguments = argv or sys.argv[1:]
    # What libraries print is no line of ours, so it goes to standard error.
    speaker = Speaker(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    module = f"{__package__}.{name}"
    if not re.fullmatch(r"[a-z_]+", name) or find_spec(module) is None:
        speaker.error(f"there is no tool {name!r}")
        return 2
    begun = time.monotonic()
    try:
        settings = load_settings()
        set_base(settings.catalog.parent, settings.state_dir / "converted", mirror_of(settings))
        report: Report = import_module(module).run(
            json.loads(arguments), settings, speaker.progress
        )
        report.seconds = round(time.monotonic() - begun, 1)
        speaker.report(report)
    except KeyboardInterrupt:
        return _STOPPED
    except MemoryError:
        speaker.error(f"{name} ran out of memory; give this machine more, or take a smaller model")
        return 2
    except Exception as exc:  # noqa: BLE001 - a handler and its libraries may raise anything
        speaker.error(_sentence_on(exc))
        return 2
    return 0


def _sentence_on(error: Exception) -> str:
    if isinstance(error, FleetError | OSError):
        return str(error)
    traceback.print_exception(error)
    said = " ".join(str(error).split())[:_SAID_CHARACTERS]
    where = place_of_error(error)
    return ": ".join(filter(None, (where, type(error).__name__, said)))


if __name__ == "__main__":
    end_by_exception()
    sys.exit(main())
