"""Assigns a device to each worker process, before torch is imported.

Each process sees one device, runs on the cores near it and uses its share of their threads.
Only `prepare` uses torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import structlog

from common.errors import ConfigurationError
from common.settings import DeviceSettings
from worker.devices.cpu_shares import share_cores
from worker.devices.discovery import CUDA_ORDER, CUDA_TOKEN, Gpu, Machine, first_number

log = structlog.get_logger(__name__)

DEVICES_HELP = (
    "auto: every GPU, else MPS, else the CPU; or a list: 0,1 or a UUID for GPUs, cuda for all of "
    "them, mps, cpu, cpu:2 for two CPU processes. A device named twice gets two processes. "
    "Numbers count what CUDA_VISIBLE_DEVICES shows, in the order of nvidia-smi."
)


@dataclass(frozen=True, slots=True)
class Placement:
    """The device and cores of one worker process."""

    device: str
    """Its display name: `cuda:1`, a UUID, `mps` or `cpu`."""
    visible: str
    """CUDA_VISIBLE_DEVICES; empty hides every GPU."""
    threads: int
    cores: frozenset[int] = frozenset()
    """The cores to run on; empty is no restriction."""

    def environment(self) -> dict[str, str]:
        """The environment to set before torch, NumPy or ONNX Runtime are imported."""
        return {
            "CUDA_VISIBLE_DEVICES": self.visible,
            "CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER") or CUDA_ORDER,
            "OMP_NUM_THREADS": str(self.threads),
        }


class _Chosen(NamedTuple):
    device: str
    gpu: Gpu | None = None


def plan(
    settings: DeviceSettings, machine: Machine, environment: Mapping[str, str] = os.environ
) -> list[Placement]:
    """One placement per worker process. Raises ConfigurationError with what to write instead."""
    chosen = choose(settings.devices, settings.use_gpu, machine)
    cores = _cpu_shares(chosen, settings, machine) or [
        _cores_for(one, settings, machine) for one in chosen
    ]
    budget = machine.quota or len(machine.cores)
    asked = settings.torch_threads or first_number(environment.get("OMP_NUM_THREADS", ""))
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


def _cpu_shares(
    chosen: Sequence[_Chosen], settings: DeviceSettings, machine: Machine
) -> list[frozenset[int]] | None:
    """Cores of their own for several processes that all run on the CPU; None for others."""
    if not settings.cpu_affinity or any(one.device != "cpu" for one in chosen):
        return None
    return share_cores(len(chosen), machine.nodes)


def _cores_for(chosen: _Chosen, settings: DeviceSettings, machine: Machine) -> frozenset[int]:
    near = chosen.gpu.near & machine.cores if chosen.gpu and settings.cpu_affinity else None
    return near or machine.cores


def choose(asked: str, use_gpu: bool, machine: Machine) -> list[_Chosen]:
    """The configured devices, one per process; a device named twice gets two processes."""
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
    # Listing slices may require privileges that using one does not.
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
    """torch's name of the device in a process that sees no other GPU."""
    return device if device in ("cpu", "mps") else "cuda:0"


def enter(placement: Placement) -> None:
    """Apply the placement to this process. Call before torch is imported and threads start."""
    os.environ.update(placement.environment())
    stay_on(placement.cores)


def stay_on(cores: frozenset[int]) -> None:
    """Pin this thread, and those it will start, to these cores; ignored where unsupported."""
    if cores and hasattr(os, "sched_setaffinity"):
        with suppress(OSError):
            os.sched_setaffinity(0, cores)
