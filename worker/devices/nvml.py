"""Reads a GPU's utilisation, memory and power from its driver, when Prometheus asks.

nvidia-ml-py counts GPUs as nvidia-smi does, and this process sees one of them as `cuda:0`: which
one is in CUDA_VISIBLE_DEVICES, as the worker's placement set it. Without the library, a driver or
the permission there is nothing to read, and no series.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import structlog

log = structlog.get_logger(__name__)

_MILLIWATTS = 1_000


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What the driver says now; None for what this GPU does not tell."""

    gpu: str
    """Its number in nvidia-smi, or its UUID."""
    utilization: float | None
    """Share of the last moment in which a kernel ran, 0 to 1."""
    memory_used_bytes: int | None
    memory_bytes: int | None
    power_watts: float | None


class GpuReader:
    """Reads the GPU of this process."""

    def __init__(self, nvml: Any, handle: Any, gpu: str) -> None:
        self._nvml = nvml
        self._handle = handle
        self._gpu = gpu

    def read(self) -> GpuReading:
        """The current values."""
        nvml, handle = self._nvml, self._handle
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        rates = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        power = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        return GpuReading(
            self._gpu,
            None if rates is None else rates.gpu / 100,
            None if memory is None else int(memory.used),
            None if memory is None else int(memory.total),
            None if power is None else power / _MILLIWATTS,
        )

    def name(self) -> str:
        """The GPU's model, such as `NVIDIA H100 80GB HBM3`; empty where it does not tell."""
        return str(self._ask(self._nvml.nvmlDeviceGetName, self._handle) or "")

    def _ask(self, question: Callable[[Any], Any], handle: Any) -> Any:
        """The answer; None where this GPU has none: a MIG slice knows no utilisation."""
        with suppress(self._nvml.NVMLError):
            return question(handle)
        return None


def gpu_reader(
    device: str,
    environment: Mapping[str, str] = os.environ,
    load_nvml: Callable[[], Any] = lambda: import_module("pynvml"),
) -> GpuReader | None:
    """A reader of this process's GPU; None where it has none, or it cannot be read."""
    token = environment.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    if not device.startswith("cuda") or not token:
        return None
    try:
        nvml = load_nvml()
        nvml.nvmlInit()
        if token.isdecimal():
            handle = nvml.nvmlDeviceGetHandleByIndex(int(token))
        else:
            handle = nvml.nvmlDeviceGetHandleByUUID(token)
    except Exception as exc:  # noqa: BLE001 - no library, no driver or no permission
        log.info("gpu_not_measured", gpu=token, error=str(exc))
        return None
    return GpuReader(nvml, handle, token)


def gpu_name(device: str) -> str:
    """The model of this process's GPU; empty where it has none, or it cannot be read."""
    reader = gpu_reader(device)
    return "" if reader is None else reader.name()
