"""When a process was started, by the kernel's files."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from worker.guard.arrival import process_began


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's files are Linux'")
def test_a_process_knows_when_it_was_started() -> None:
    code = (
        "import time; time.sleep(0.3)\n"
        "from worker.guard.arrival import process_began; print(process_began())"
    )
    before = time.monotonic()
    began = float(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert before - 0.05 <= began <= time.monotonic() - 0.3
    assert process_began() < before
