"""What a verdict belongs to besides the model: the processor, the GPU, the libraries.

int8 on a processor without VNNI rounds otherwise than on one with it, and each release of a
library has other kernels.
"""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from pathlib import Path
from typing import Any

from common.runtime import version_of

__all__ = ("machine_of", "processor")

_CPUINFO = Path("/proc/cpuinfo")
_LIBRARIES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tokenizers", "transformers")
_FLAGS_CHARACTERS = 12


def machine_of(device: str) -> dict[str, Any]:
    """By name; equal on two machines whose results are equal, as far as a process can know."""
    return {
        "processor": processor(),
        "gpu": _gpu(device),
        "libraries": {name: found for name in _LIBRARIES if (found := version_of(name))},
    }


@cache
def processor() -> str:
    """`AMD EPYC 7763 64-Core Processor, flags 3f2a...`."""
    facts: dict[str, str] = {}
    try:
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    name = facts.get("model name") or platform.processor() or platform.machine()
    flags = " ".join(sorted((facts.get("flags") or facts.get("Features") or "").split()))
    return f"{name}, flags {hashlib.sha256(flags.encode()).hexdigest()[:_FLAGS_CHARACTERS]}"


def _gpu(device: str) -> str | None:
    if not device.startswith("cuda"):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
