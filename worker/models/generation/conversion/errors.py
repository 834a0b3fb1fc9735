"""What a conversion can end with."""

from __future__ import annotations

__all__ = ("NotConverted",)


class NotConverted(Exception):
    """The source cannot be converted; the message says why, and what to do."""
