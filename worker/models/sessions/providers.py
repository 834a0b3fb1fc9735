"""ONNX Runtime's providers by the words of the catalog, with the options that they get here.

Pure but for the folder of TensorRT's engines: what this machine has is passed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError
from worker.models.sessions.session import Port

__all__ = ("CUDA", "Machine", "Shapes", "chosen", "engine_folder", "options_of", "profiles")

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
WORDS = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
_REMEDY = "pip install onnxruntime-gpu, whose CUDA must be the driver's"

Provider = str | tuple[str, dict[str, Any]]
"""As ONNX Runtime takes it: a name, or a name with its options."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to run on."""

    available: tuple[str, ...]
    """The providers that this build of ONNX Runtime has."""
    device: str = "cpu"
    """As handlers get it: `cpu`, `cuda:0`."""
    limit_bytes: int | None = None
    """Most memory of the GPU for one session."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """What TensorRT is told of the inputs, so that it builds one engine and not one a shape."""

    precision: str = "fp32"
    max_batch: int = 1
    longest: int | None = None
    """The most of every other axis that varies, such as tokens."""


def chosen(words: Sequence[str], machine: Machine) -> list[str]:
    """The providers in order, by their own names; the CPU is the last resort of all.

    Without words they follow the device. Raises ConfigurationError for one that is not there.
    """
    if not words:
        on_gpu = machine.device.startswith("cuda") and CUDA in machine.available
        return [CUDA, CPU] if on_gpu else [CPU]
    found = []
    for word in words:
        name = WORDS.get(word.lower(), word)
        if name not in machine.available:
            raise ConfigurationError(
                f"providers: {word} is not in this ONNX Runtime, which has "
                f"{', '.join(machine.available)}; name one of them (cpu, cuda and tensorrt for "
                f"short), or {_REMEDY}"
            )
        if name in (CUDA, TENSORRT) and not machine.device.startswith("cuda"):
            raise ConfigurationError(
                f"providers: {word} needs a GPU, and this worker runs on {machine.device}; "
                "name cpu, or start a worker with a GPU (--devices)"
            )
        found.append(name)
    return list(dict.fromkeys([*found, CPU]))


def options_of(
    names: Sequence[str], machine: Machine, shapes: Shapes, ports: Sequence[Port], engines: Path
) -> list[Provider]:
    """The providers with their options. engines: TensorRT's folder, for this file and GPU."""
    ordinal = int(machine.device.partition(":")[2] or 0)
    cuda: dict[str, Any] = {
        "device_id": ordinal,
        # Else the arena doubles at each growth, and takes up to twice what is needed.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if machine.limit_bytes is not None:
        cuda["gpu_mem_limit"] = machine.limit_bytes
    tensorrt = {
        "device_id": ordinal,
        "trt_fp16_enable": shapes.precision == "fp16",
        "trt_int8_enable": shapes.precision == "int8",
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(engines),
        **profiles(ports, shapes),
    }
    if machine.limit_bytes is not None:
        tensorrt["trt_max_workspace_size"] = machine.limit_bytes
    own: Mapping[str, dict[str, Any]] = {CUDA: cuda, TENSORRT: tensorrt}
    return [(name, own[name]) if name in own else name for name in names]


def profiles(ports: Sequence[Port], shapes: Shapes) -> dict[str, str]:
    """TensorRT's least, usual and largest shape of each input; nothing where one is unbounded.

    The first axis is the batch. Without profiles an engine is built for each new shape.
    """
    sizes: dict[str, list[str]] = {"min": [], "opt": [], "max": []}
    for port in ports:
        if shapes.longest is None and None in port.shape[1:]:
            return {}
        longest = shapes.longest or 1
        usual = max(1, longest // 4)
        for kind, batch, length in (
            ("min", 1, 1),
            ("opt", shapes.max_batch, usual),
            ("max", shapes.max_batch, longest),
        ):
            first, rest = port.shape[:1], port.shape[1:]
            sides = [batch if side is None else side for side in first]
            sides += [length if side is None else side for side in rest]
            sizes[kind].append(f"{port.name}:{'x'.join(map(str, sides))}")
    return {f"trt_profile_{kind}_shapes": ",".join(all_) for kind, all_ in sizes.items()}


def engine_folder(base: Path, digest: str, gpu: str, version: str, shapes: Shapes) -> Path:
    """Where the engines lie of weights with this digest, on this GPU, by this ONNX Runtime."""
    parts = f"{gpu}\n{version}\n{shapes.precision}\n{shapes.max_batch}\n{shapes.longest}"
    return base / f"{digest[:16]}-{hashlib.sha256(parts.encode()).hexdigest()[:12]}"
