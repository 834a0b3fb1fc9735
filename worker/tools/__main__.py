"""`python -m worker.tools TOOL ARGUMENTS`: one tool, whose arguments are a JSON object.

A module of this package that has `run(arguments, settings, progress) -> Report` is a tool.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from importlib import import_module
from importlib.util import find_spec

from common.errors import FleetError
from common.settings import load_settings
from worker.models.mirror import mirror_of
from worker.models.weights import set_base
from worker.tools.report import Report, Speaker


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 with an error."""
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
    except (FleetError, OSError) as exc:
        speaker.error(str(exc))
        return 2
    except MemoryError:
        speaker.error(f"{name} ran out of memory; give this machine more, or take a smaller model")
        return 2
    report.seconds = round(time.monotonic() - begun, 1)
    speaker.report(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
