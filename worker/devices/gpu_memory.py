"""How much of a GPU's memory a session may take that is not torch's.

torch has a cap of its own, set in `torch_setup`; ONNX Runtime takes its limit in bytes, once for
each session. Both come from LANEFLEET_GPU_MEMORY_FRACTION.
"""

from __future__ import annotations

from worker.devices.nvml import gpu_reader

__all__ = ("session_limit_bytes", "set_fraction")

_fraction = 1.0


def set_fraction(fraction: float) -> None:
    """The share of the GPU's memory that a session may take; called before any model loads."""
    global _fraction
    _fraction = fraction


def session_limit_bytes(device: str) -> int | None:
    """The limit of a session on this device; None where its memory is not known."""
    reader = gpu_reader(device)
    total = reader.read().memory_bytes if reader is not None else None
    return None if total is None else int(total * _fraction)
