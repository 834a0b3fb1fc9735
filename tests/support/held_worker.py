"""A worker that stands still for ever before a step, so that a test can kill it there.

HOLD names the step: `finish` holds before results are stored, `continue` before what an entry
of the outbox leads to is sent. HELD_FILE is made when it is reached.
"""

from __future__ import annotations

import os
import runpy
import threading
from pathlib import Path
from typing import Any

from worker.celery_integration.continuations import Continuations
from worker.jobs.leases import LaneLeases


def _hold(*_arguments: Any, **_named: Any) -> None:
    Path(os.environ["HELD_FILE"]).touch()
    threading.Event().wait()


if __name__ == "__main__":
    if os.environ["HOLD"] == "finish":
        for name in ("finish", "bury"):
            setattr(LaneLeases, name, _hold)
    else:
        Continuations._push = _hold  # type: ignore[method-assign]
    runpy.run_module("worker", run_name="__main__")
