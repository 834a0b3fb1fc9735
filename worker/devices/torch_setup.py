"""Configures torch for the device and the cores of this process."""

from __future__ import annotations

import functools
import os
import sys
from contextlib import suppress
from importlib.util import find_spec

import structlog

from common.settings import DeviceSettings
from worker.devices.discovery import cpu_quota, first_number, usable_cores
from worker.devices.gpu_memory import set_fraction

log = structlog.get_logger(__name__)


def math_threads() -> int:
    """Threads for one forward pass in this process, for torch and ONNX Runtime alike."""
    asked = first_number(os.environ.get("OMP_NUM_THREADS", ""))
    return asked or min(len(usable_cores()), cpu_quota() or sys.maxsize)


def prepare(device: str, settings: DeviceSettings) -> None:
    """Configure torch for a device, as named by `name_inside`. Idempotent.

    Call on the device's thread before each model loads, so that the memory cap applies to its
    weights, and after: on a CPU only the model determines whether torch is needed, and an
    unnecessary import takes seconds.
    """
    set_fraction(settings.gpu_memory_fraction)
    if "torch" not in sys.modules and (device == "cpu" or find_spec("torch") is None):
        return
    import torch

    torch.set_num_threads(math_threads())
    if device.startswith("cuda"):
        _prepare_cuda(device, settings)
    elif device == "mps":
        if settings.gpu_memory_fraction < 1:
            torch.mps.set_per_process_memory_fraction(settings.gpu_memory_fraction)
    elif torch.get_num_interop_threads() != 1:
        with suppress(RuntimeError):  # torch accepts it only before its first parallel work
            torch.set_num_interop_threads(1)


def _prepare_cuda(device: str, settings: DeviceSettings) -> None:
    import torch

    # The names before torch 2.9: they keep the newer fp32_precision in step, while setting
    # that one makes every library that still reads these raise.
    torch.backends.cuda.matmul.allow_tf32 = settings.allow_tf32
    torch.backends.cudnn.allow_tf32 = settings.allow_tf32
    torch.backends.cudnn.benchmark = settings.cudnn_benchmark
    if not _cuda_works():
        return
    if settings.gpu_memory_fraction < 1:
        torch.cuda.set_per_process_memory_fraction(settings.gpu_memory_fraction, device)


@functools.cache
def _cuda_works() -> bool:
    import torch

    if torch.cuda.is_available():
        return True
    log.warning(
        "torch_sees_no_gpu",
        torch=torch.__version__,
        remedy="install a CUDA build of torch that fits the driver, or set LANEFLEET_USE_GPU=false",
    )
    return False
