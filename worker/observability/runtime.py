"""What a worker process runs on, for its report.

Only libraries that the process has imported are asked, and only once models are loaded: a start
is not to wait for it.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

from common.runtime import image_library, shared_optimizations, versions
from common.worker_report import RuntimeReport
from worker.devices.torch_setup import math_threads
from worker.observability.view import EngineView

_GB = 2**30
_PACKAGES = ("lanefleet", "celery", "kombu", "redis")
_LIBRARIES = {
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "tokenizers": "tokenizers",
    "transformers": "transformers",
    "numpy": "numpy",
}
"""Modules to their packages, of which only those that were imported are named."""


def runtime_of(view: EngineView) -> RuntimeReport:
    """What this process runs on, as far as it is known now."""
    arrival = view.arrival
    allocated, reserved = _device_memory(view.device)
    known = arrival.cold_start_seconds is not None
    loaded = tuple(package for module, package in _LIBRARIES.items() if module in sys.modules)
    cold = arrival.cold_start_seconds
    return RuntimeReport(
        gpu=view.device != "cpu",
        gpu_allocated_gb=allocated,
        gpu_reserved_gb=reserved,
        optimizations=_optimizations(loaded, view.settings.decode_threads) if known else {},
        versions=_versions(loaded) if known else {},
        cold_start_seconds=None if cold is None else round(cold, 3),
        gc_pauses=arrival.pauses.count,
        gc_pause_seconds=round(arrival.pauses.seconds, 4),
    )


@lru_cache(maxsize=1)
def _versions(loaded: tuple[str, ...]) -> dict[str, str]:
    return versions(*_PACKAGES, *loaded)


@lru_cache(maxsize=1)
def _optimizations(loaded: tuple[str, ...], decode_threads: int) -> dict[str, Any]:
    threads = {"decode": decode_threads}
    if "torch" in loaded:
        threads["torch"] = int(sys.modules["torch"].get_num_threads())
    if "onnxruntime" in loaded:
        threads["onnxruntime"] = math_threads()
    images = image_library()
    simd = images if images and images.startswith("pillow-simd") else None
    return {**shared_optimizations(), "pillow-simd": simd, "threads": threads}


def _device_memory(device: str) -> tuple[float, float]:
    """What tensors take and what torch keeps for them, in GB; 0 where no GPU is in use."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda"):
        return 0.0, 0.0
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    return round(allocated / _GB, 3), round(reserved / _GB, 3)
