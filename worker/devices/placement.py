"""Which device each worker process gets, settled before torch is imported.

Each process sees one device, runs on the cores near it and takes its share
of their threads. `prepare` alone touches torch.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import NamedTuple

import structlog

from common.errors import ConfigurationError
from common.settings import Settings
from worker.devices.discovery import CUDA_ORDER, CUDA_TOKEN, Gpu, Machine, cpu_quota, usable_cores

log = structlog.get_logger(__name__)

DEVICES_HELP = (
    "auto: every GPU, else MPS, else the CPU; or a list: 0,1 or a UUID for GPUs, cuda for all of "
    "them, mps, cpu, cpu:2 for two CPU processes. A device named twice gets two processes. "
    "Numbers count what CUDA_VISIBLE_DEVICES shows, in the order of nvidia-smi."
)


@dataclass(frozen=True, slots=True)
class Placement:
    """What one worker process gets."""

    device: str
    """Its name to people: `cuda:1`, a UUID, `mps` or `cpu`."""
    visible: str
    """CUDA_VISIBLE_DEVICES; empty hides every GPU."""
    threads: int
    cores: frozenset[int] = frozenset()
    """The cores to stay on; empty is wherever the system likes."""

    def environment(self) -> dict[str, str]:
        """What must be set before torch, NumPy or ONNX Runtime are imported."""
        return {
            "CUDA_VISIBLE_DEVICES": self.visible,
            "CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER") or CUDA_ORDER,
            "OMP_NUM_THREADS": str(self.threads),
        }


class _Chosen(NamedTuple):
    device: str
    gpu: Gpu | None = None


def plan(
    settings: Settings, machine: Machine, environment: Mapping[str, str] = os.environ
) -> list[Placement]:
    """One placement per worker process. Raises ConfigurationError, with what to write instead."""
    chosen = choose(settings.devices, settings.use_gpu, machine)
    cores = [_cores_for(one, settings, machine) for one in chosen]
    budget = machine.quota or len(machine.cores)
    asked = settings.torch_threads or _first_number(environment.get("OMP_NUM_THREADS", ""))
    placements = []
    for one, own in zip(chosen, cores, strict=True):
        sharers = sum(1 for others in cores if own & others)
        share = min(len(own) // sharers, budget // len(chosen))
        placements.append(
            Placement(
                device=one.device,
                visible=one.gpu.token if one.gpu else "",
                threads=asked or max(1, share),
                cores=own if own != machine.cores else frozenset(),
            )
        )
    for placement in placements:
        log.info(
            "device_placed",
            device=placement.device,
            cuda_visible_devices=placement.visible,
            threads=placement.threads,
            pinned_cores=len(placement.cores) or None,
        )
    return placements


def _cores_for(chosen: _Chosen, settings: Settings, machine: Machine) -> frozenset[int]:
    near = chosen.gpu.near & machine.cores if chosen.gpu and settings.cpu_affinity else None
    return near or machine.cores


def _first_number(text: str) -> int:
    """The first of `8,4`, as OpenMP nests them; 0 where there is none."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def choose(asked: str, use_gpu: bool, machine: Machine) -> list[_Chosen]:
    """The devices asked for, one per process; a device named twice gets two processes."""
    if asked.strip() == "auto":
        return _automatic(use_gpu, machine)
    chosen = [one for word in asked.split(",") for one in _read_device(word.strip(), machine)]
    if not use_gpu and any(one.device != "cpu" for one in chosen):
        raise ConfigurationError(
            f"devices ({asked}) asks for a GPU and use_gpu is false; drop one of the two "
            "(--devices or LANEFLEET_DEVICES, and LANEFLEET_USE_GPU)"
        )
    return chosen


def _automatic(use_gpu: bool, machine: Machine) -> list[_Chosen]:
    if use_gpu and machine.gpus:
        return _every_gpu(machine)
    return [_Chosen("mps" if use_gpu and machine.has_mps else "cpu")]


def _every_gpu(machine: Machine) -> list[_Chosen]:
    return [_Chosen(f"cuda:{number}", gpu) for number, gpu in enumerate(machine.gpus)]


def _read_device(word: str, machine: Machine) -> list[_Chosen]:
    if word == "mps":
        if not machine.has_mps:
            raise _unusable(word, "it needs macOS on Apple silicon")
        return [_Chosen("mps")]
    if match := re.fullmatch(r"cpu(?::([1-9]\d{0,2}))?", word):
        return [_Chosen("cpu")] * int(match[1] or 1)
    if word == "cuda":
        return _every_gpu(machine) or _refuse(word, machine)
    number = word.removeprefix("cuda:")
    if number.isdecimal():
        return _every_gpu(machine)[int(number) :][:1] or _refuse(word, machine)
    if CUDA_TOKEN.fullmatch(word):
        return _by_uuid(word, machine)
    raise _unusable(
        word, "write auto, cuda, a GPU's number or UUID, mps, cpu, or cpu:2 for two CPU processes"
    )


def _by_uuid(word: str, machine: Machine) -> list[_Chosen]:
    known = [gpu for gpu in machine.gpus if gpu.uuid.startswith(word)]
    if known:
        return [_Chosen(word, replace(known[0], token=word))]
    # Listing slices may need rights that using one does not.
    if word.startswith("MIG-") or not machine.gpus:
        return [_Chosen(word, Gpu(word, uuid=word))]
    return _refuse(word, machine)


def _refuse(word: str, machine: Machine) -> list[_Chosen]:
    if not machine.gpus:
        raise _unusable(
            word,
            "no GPU is visible here; see what nvidia-smi says and whether CUDA_VISIBLE_DEVICES "
            "hides it, or write cpu",
        )
    there = ", ".join(
        f"{number} ({gpu.uuid or gpu.token})" for number, gpu in enumerate(machine.gpus)
    )
    raise _unusable(word, f"the visible GPUs are {there}")


def _unusable(word: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"devices (--devices, LANEFLEET_DEVICES): {word!r}: {remedy}")


# -- in the worker process -------------------------------------------------


def name_inside(device: str) -> str:
    """What torch calls the device in a process that sees no other GPU."""
    return device if device in ("cpu", "mps") else "cuda:0"


def enter(placement: Placement) -> None:
    """Take the placement in this process. Call before torch is imported and threads start."""
    os.environ.update(placement.environment())
    stay_on(placement.cores)


def stay_on(cores: frozenset[int]) -> None:
    """Keep this thread, and those it will start, on these cores; quietly where that cannot be."""
    if cores and hasattr(os, "sched_setaffinity"):
        with suppress(OSError):
            os.sched_setaffinity(0, cores)


def math_threads() -> int:
    """Threads for one forward pass in this process; torch and ONNX Runtime get the same."""
    asked = _first_number(os.environ.get("OMP_NUM_THREADS", ""))
    return asked or min(len(usable_cores()), cpu_quota() or sys.maxsize)


def prepare(device: str, settings: Settings) -> None:
    """Set torch up for a device, as `name_inside` gives it. Harmless to repeat.

    Call on the device's thread before each model loads, so that the cap on
    memory holds for its weights, and after: on a CPU only the model knows
    whether torch is needed, and to import it for nothing takes seconds.
    """
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
        with suppress(RuntimeError):  # torch takes it only before its first parallel work
            torch.set_num_interop_threads(1)


def _prepare_cuda(device: str, settings: Settings) -> None:
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
