"""Children that end with their parent, whenever that is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial

import pytest

from common.processes import die_with_parent
from tests.support.stack import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_child_whose_parent_was_gone_before_it_could_ask_ends_at_once() -> None:
    """As between the fork and the request, which takes a few milliseconds."""
    child = subprocess.Popen(SLEEPS, preexec_fn=partial(die_with_parent, os.getppid()))
    assert child.wait(20) == 1


def test_a_child_ends_when_its_parent_is_killed() -> None:
    code = f"""
import os, subprocess, sys, time
from functools import partial
from common.processes import die_with_parent
child = subprocess.Popen({SLEEPS!r}, preexec_fn=partial(die_with_parent, os.getpid()))
print(child.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(gone, 20, "the child's end")


def test_a_signal_before_a_child_runs_its_program_ends_it() -> None:
    """The parent's handler is inherited until then; it swallowed the signal of its own death."""

    def in_the_child(parent: int) -> None:
        die_with_parent(parent)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        child = subprocess.Popen(SLEEPS, preexec_fn=partial(in_the_child, os.getpid()))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert child.wait(20) == -signal.SIGTERM
