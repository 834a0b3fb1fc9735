"""What a batch freed is there for the next, unless the operator has the last word."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.support.stack import ROOT

FAULTS = """
import resource, sys
from worker.devices.kept_memory import keep_freed
keep_freed(int(sys.argv[1]), {name: "1" for name in sys.argv[2:]})
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(48 << 20)[::4096]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(sum(faults() for _ in range(4)))
"""


def faults(*arguments: str) -> int:
    """Pages that four batches had cleared, after the first."""
    command = [sys.executable, "-c", FAULTS, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries keep as they do")
def test_memory_of_a_batch_is_kept_for_the_next() -> None:
    cleared = faults("0")
    assert faults("256") < cleared / 4
    assert faults("256", "GLIBC_TUNABLES") == pytest.approx(cleared, rel=0.2)
