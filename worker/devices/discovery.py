"""Discovers the machine's resources: GPUs, cores and a container's share of them.

Uses NVML and the kernel's files, never torch: the process that starts the workers must not
import it, and `CUDA_VISIBLE_DEVICES` must be set before it is imported.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import structlog

from common.errors import ConfigurationError

log = structlog.get_logger(__name__)

CUDA_ORDER = "PCI_BUS_ID"
"""The order in which NVML and nvidia-smi number GPUs; CUDA's own is fastest first."""
CUDA_TOKEN = re.compile(r"\d+|(GPU|MIG)-[\w/-]+")
"""One entry of CUDA_VISIBLE_DEVICES that CUDA understands."""
_DRIVER = Path("/proc/driver/nvidia/gpus")
_PCI = Path("/sys/bus/pci/devices")
_SYSTEM = Path("/sys/devices/system")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one MIG slice of it, by its name in CUDA_VISIBLE_DEVICES."""

    token: str
    index: int | None = None
    """Its number in nvidia-smi; a slice has that of its GPU."""
    uuid: str = ""
    near: frozenset[int] = frozenset()
    """The cores of its NUMA node; empty where unknown."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The resources that this process may use."""

    gpus: tuple[Gpu, ...]
    cores: frozenset[int]
    quota: int | None = None
    """Whole cores that a container's CPU limit grants; None is all of them."""
    has_mps: bool = False
    nodes: tuple[tuple[int, ...], ...] = ()
    """The usable cores of each NUMA node, the threads of one physical core side by side; empty
    where the kernel does not say."""


def look_around(
    environment: Mapping[str, str] = os.environ,
    load_nvml: Callable[[], Any] = lambda: import_module("pynvml"),
    driver: Path = _DRIVER,
    pci: Path = _PCI,
    system: Path = _SYSTEM,
) -> Machine:
    """Query the system, without torch."""
    numbered_as_nvml = (environment.get("CUDA_DEVICE_ORDER") or CUDA_ORDER) == CUDA_ORDER
    found = find_gpus(load_nvml, driver, pci if numbered_as_nvml else None)
    cores = usable_cores()
    return Machine(
        gpus=tuple(visible_gpus(found, environment.get("CUDA_VISIBLE_DEVICES"))),
        cores=cores,
        quota=cpu_quota(),
        has_mps=sys.platform == "darwin" and platform.machine() == "arm64",
        nodes=tuple(numa_nodes(cores, system)),
    )


def numa_nodes(usable: frozenset[int], system: Path = _SYSTEM) -> Iterator[tuple[int, ...]]:
    """The usable cores of each NUMA node; nothing where the kernel does not say."""
    for path in sorted(system.glob("node/node[0-9]*/cpulist")):
        with suppress(OSError, ValueError):
            cores = parse_cores(path.read_text(encoding="ascii")) & usable
            if cores:
                yield tuple(sorted(cores, key=lambda core: (_first_sibling(core, system), core)))


def _first_sibling(core: int, system: Path) -> int:
    """The lowest number among the threads of its physical core."""
    path = system / f"cpu/cpu{core}/topology/thread_siblings_list"
    try:
        return min(parse_cores(path.read_text(encoding="ascii")), default=core)
    except (OSError, ValueError):
        return core


def find_gpus(load_nvml: Callable[[], Any], driver: Path, pci: Path | None) -> list[Gpu]:
    """Every GPU the driver shows, in the order of nvidia-smi; none without a driver.

    A container with a GPU for computing only has no NVML, so the driver's own files are the
    second source.
    """
    try:
        nvml = load_nvml()
        nvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no library, no driver or no permission
        return list(_gpus_of_driver(driver, pci))
    try:
        return [
            gpu
            for index in range(int(nvml.nvmlDeviceGetCount()))
            for gpu in _gpus_of_nvml(nvml, index, pci)
        ]
    finally:
        nvml.nvmlShutdown()


def _gpus_of_nvml(nvml: Any, index: int, pci: Path | None) -> list[Gpu]:
    """One GPU, or its MIG slices; nothing when it has fallen off the bus."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        near = near_cores(_text(nvml.nvmlDeviceGetPciInfo(handle).busId), pci)
        uuids = _mig_slices(nvml, handle)
        if uuids is None:
            return [Gpu(str(index), index, _text(nvml.nvmlDeviceGetUUID(handle)), near)]
    except nvml.NVMLError as exc:
        log.warning("gpu_unreadable", gpu=index, error=str(exc))
        return []
    if not uuids:
        log.warning("gpu_without_slices", gpu=index, remedy="nvidia-smi mig -cgi ... -C")
    return [Gpu(uuid, index, uuid, near) for uuid in uuids]


def _mig_slices(nvml: Any, handle: Any) -> list[str] | None:
    """The UUIDs of a GPU's slices; None when it is not partitioned."""
    try:
        if not nvml.nvmlDeviceGetMigMode(handle)[0]:
            return None
    except nvml.NVMLError:  # GPUs without MIG do not support the query
        return None
    uuids = []
    for index in range(int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))):
        with suppress(nvml.NVMLError):  # a place where no slice is
            piece = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            uuids.append(_text(nvml.nvmlDeviceGetUUID(piece)))
    return uuids


def _gpus_of_driver(driver: Path, pci: Path | None) -> Iterator[Gpu]:
    with suppress(OSError):
        for index, folder in enumerate(sorted(driver.iterdir())):
            facts = (folder / "information").read_text(encoding="utf-8", errors="replace")
            uuid = re.search(r"^GPU UUID:\s*(\S+)", facts, re.MULTILINE)
            yield Gpu(str(index), index, uuid[1] if uuid else "", near_cores(folder.name, pci))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def near_cores(bus_id: str, pci: Path | None) -> frozenset[int]:
    """The cores on a PCI device's NUMA node; empty where unknown."""
    domain, _, rest = bus_id.lower().partition(":")
    if pci is None or not rest:
        return frozenset()
    # NVML writes the domain with eight digits, sysfs with four.
    try:
        folder = pci / f"{int(domain, 16):04x}:{rest}"
        return parse_cores((folder / "local_cpulist").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return frozenset()


def parse_cores(text: str) -> frozenset[int]:
    """Parse `0-3,8`, the kernel's format. Raises ValueError for anything else."""
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)


def visible_gpus(found: Sequence[Gpu], listed: str | None) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES permits, in its order; None permits all.

    Its entries are kept unchanged. Where the driver lists no GPUs to compare them with, they
    are accepted. Raises ConfigurationError.
    """
    if listed is None:
        return list(found)
    gpus = []
    for token in (part.strip() for part in listed.split(",")):
        if not CUDA_TOKEN.fullmatch(token):
            break  # like CUDA, which hides an invalid entry and all after it
        gpus.append(_recognise(token, found))
    return gpus


def _recognise(token: str, found: Sequence[Gpu]) -> Gpu:
    if not token.isdigit():
        known = next((gpu for gpu in found if gpu.uuid.startswith(token)), None)
        return replace(known, token=token) if known else Gpu(token, uuid=token)
    known = next((gpu for gpu in found if gpu.index == int(token)), None)
    if found and known is None:
        raise ConfigurationError(
            f"CUDA_VISIBLE_DEVICES names GPU {token}, but the driver shows no such GPU; "
            "correct it, or unset it to use all"
        )
    return replace(known, token=token) if known else Gpu(token, int(token))


def usable_cores() -> frozenset[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cpu_quota(cgroup: Path = _CGROUP) -> int | None:
    """Whole cores that a container's CPU limit grants (cgroup v2); None without a limit.

    With more threads than that, the kernel throttles all of them for part of every tenth of a
    second.
    """
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None


def first_number(text: str) -> int:
    """The first of `8,4`, as OpenMP nests them; 0 where there is none."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0
