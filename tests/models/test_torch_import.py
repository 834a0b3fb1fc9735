"""torch comes in without what no forward pass needs, and whole where something does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.stack import ROOT

SHAPES = """
import sys
from worker.devices.torch_import import deferring, finish_torch
with deferring():
    import torch
assert torch.fft.fft(torch.ones(8))[0] == 8
assert "torch._decomp" not in sys.modules, "the shape rules were executed"
{finish}
assert torch.fft.fft(torch.ones(8, device="meta")).shape == (8,)
with deferring():
    import torch
finish_torch()
"""
WAYS = {
    "told": "finish_torch()",
    "by a name in it": "torch._meta_registrations.device_hint",
    "by an import from it": "from torch._meta_registrations import device_hint",
}


@pytest.mark.slow
@pytest.mark.parametrize("finish", WAYS.values(), ids=list(WAYS))
def test_shape_rules_come_when_they_are_needed(finish: str) -> None:
    code = SHAPES.format(finish=finish)
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
