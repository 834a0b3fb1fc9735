"""Frames between an API process and the parent that adds up the metrics of all.

A frame is its length, one byte that says what it is, and JSON. A process sends what it has counted
once a second, and when it is asked for metrics; the answer to that is the sum of all.
"""

from __future__ import annotations

import struct

COUNTED = b"c"
"""What the process has counted."""
ASKED = b"q"
"""The same, with the question for the sum of all; and the answer to it."""

HEAD = struct.Struct("!Ic")


def frame(kind: bytes, text: bytes) -> bytes:
    """One frame."""
    return HEAD.pack(len(text), kind) + text
