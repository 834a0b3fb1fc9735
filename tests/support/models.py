"""What tests of single parts need to guard the calls of their models."""

from __future__ import annotations

from typing import Any

from common.settings import Settings
from worker.guard.calls import Calls
from worker.guard.limits import VerbLimits
from worker.guard.marks import Marks


def calls(**settings: Any) -> Calls:
    """Nobody's calls so far, with the limits of these settings."""
    return Calls(VerbLimits(Settings(**settings)), Marks())
