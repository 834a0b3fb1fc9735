"""Devices: what is found, and who gets what. NVML, the driver's files and sysfs are fakes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from common.errors import ConfigurationError
from common.settings import Settings, load_settings
from tests.support.stack import ROOT
from worker.devices import discovery as gpus
from worker.devices import torch_setup
from worker.devices.discovery import (
    Gpu,
    Machine,
    cpu_quota,
    find_gpus,
    look_around,
    parse_cores,
    visible_gpus,
)
from worker.devices.placement import Placement, choose, name_inside, plan
from worker.devices.torch_setup import math_threads, prepare

CORES = frozenset(range(16))
LEFT, RIGHT = frozenset(range(8)), frozenset(range(8, 16))
TWO = Machine(
    (Gpu("0", 0, "GPU-aaaa-1", LEFT), Gpu("1", 1, "GPU-bbbb-2", RIGHT)), CORES, quota=None
)
NONE = Machine((), CORES)


@pytest.fixture(autouse=True)
def _no_device_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS"),
        *("USE_GPU", "LANEFLEET_USE_GPU", "LANEFLEET_DEVICES", "LANEFLEET_TORCH_THREADS"),
    ):
        monkeypatch.delenv(name, raising=False)


# -- fakes -----------------------------------------------------------------


@dataclass
class FakeGpu:
    uuid: str
    bus_id: str = "00000000:3B:00.0"
    slices: Sequence[str] | None = None
    """UUIDs of its MIG slices; None is a GPU without MIG."""
    lost: bool = False


class FakeNvml:
    """What we use of pynvml, with its habit of raising for what a GPU does not know."""

    class NVMLError(Exception):
        pass

    def __init__(self, *found: FakeGpu, broken: bool = False) -> None:
        self.found, self.broken, self.open = found, broken, 0

    def __call__(self) -> FakeNvml:
        return self

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError("driver/library version mismatch")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.found)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        if self.found[index].lost:
            raise self.NVMLError("GPU is lost")
        return self.found[index]

    def nvmlDeviceGetPciInfo(self, gpu: FakeGpu) -> SimpleNamespace:
        return SimpleNamespace(busId=gpu.bus_id.encode())

    def nvmlDeviceGetUUID(self, gpu: FakeGpu | str) -> str:
        return gpu if isinstance(gpu, str) else gpu.uuid

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:
        if gpu.slices is None:
            raise self.NVMLError("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, _gpu: FakeGpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, index: int) -> str:
        if index >= len(gpu.slices or ()):
            raise self.NVMLError("Not Found")
        return (gpu.slices or ())[index]


@pytest.fixture
def pci(tmp_path: Path) -> Path:
    """A /sys/bus/pci/devices with two GPUs, one per NUMA node."""
    folder = tmp_path / "pci"
    for name, cores in (("0000:3b:00.0", "0-7\n"), ("0000:af:00.0", "8-11,12-15\n")):
        (folder / name).mkdir(parents=True)
        (folder / name / "local_cpulist").write_text(cores)
    return folder


# -- what there is ---------------------------------------------------------


def test_nvml_says_which_gpus_there_are_and_which_cores_are_near(pci: Path) -> None:
    nvml = FakeNvml(FakeGpu("GPU-a"), FakeGpu("GPU-b", "00000000:AF:00.0"))
    assert find_gpus(nvml, Path("/nowhere"), pci) == [
        Gpu("0", 0, "GPU-a", LEFT),
        Gpu("1", 1, "GPU-b", RIGHT),
    ]
    assert nvml.open == 0


def test_a_gpu_cut_into_slices_counts_as_its_slices(pci: Path) -> None:
    nvml = FakeNvml(FakeGpu("GPU-a", slices=("MIG-1", "MIG-2")), FakeGpu("GPU-b", slices=()))
    with structlog.testing.capture_logs() as logs:
        found = find_gpus(nvml, Path("/nowhere"), pci)
    assert [(gpu.token, gpu.index, gpu.near) for gpu in found] == [
        ("MIG-1", 0, LEFT),
        ("MIG-2", 0, LEFT),
    ]
    assert [one["event"] for one in logs] == ["gpu_without_slices"]


def test_a_lost_gpu_is_left_out_and_said_so(pci: Path) -> None:
    nvml = FakeNvml(FakeGpu("GPU-a", lost=True), FakeGpu("GPU-b"))
    with structlog.testing.capture_logs() as logs:
        found = find_gpus(nvml, Path("/nowhere"), pci)
    assert [gpu.token for gpu in found] == ["1"]
    assert [one["event"] for one in logs] == ["gpu_unreadable"]


def test_without_nvml_the_drivers_files_are_read(tmp_path: Path, pci: Path) -> None:
    for name, uuid in (("0000:af:00.0", "GPU-b"), ("0000:3b:00.0", "GPU-a")):
        (tmp_path / "gpus" / name).mkdir(parents=True)
        text = f"Model: \t\t NVIDIA H100\nIRQ:   \t\t 16\nGPU UUID: \t {uuid}\n"
        (tmp_path / "gpus" / name / "information").write_text(text)
    assert find_gpus(FakeNvml(broken=True), tmp_path / "gpus", pci) == [
        Gpu("0", 0, "GPU-a", LEFT),
        Gpu("1", 1, "GPU-b", RIGHT),
    ]


def test_a_machine_without_a_driver_has_no_gpu(tmp_path: Path) -> None:
    def no_library() -> object:
        raise ImportError("pynvml")

    assert find_gpus(no_library, tmp_path / "gpus", None) == []
    assert look_around({}, no_library, tmp_path / "gpus").gpus == ()


@pytest.mark.parametrize("bus_id", ["", "nonsense", "zz:00.0", "0000:99:00.0"])
def test_a_gpu_of_unknown_place_is_near_nothing(bus_id: str, pci: Path) -> None:
    assert gpus.near_cores(bus_id, pci) == frozenset()


def test_numbers_in_another_order_than_nvmls_tell_nothing_of_the_place(pci: Path) -> None:
    nvml, environment = FakeNvml(FakeGpu("GPU-a")), {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    assert look_around(environment, nvml, pci=pci).gpus[0].near == frozenset()
    assert look_around({}, nvml, pci=pci).gpus[0].near == LEFT


@pytest.mark.parametrize(
    ("text", "cores"),
    [("0-3,8\n", {0, 1, 2, 3, 8}), ("5\n", {5}), ("\n", set()), ("0-1,4-5", {0, 1, 4, 5})],
)
def test_the_kernels_lists_of_cores_are_read(text: str, cores: set[int]) -> None:
    assert parse_cores(text) == cores


@pytest.mark.parametrize(
    ("text", "quota"),
    [("max 100000\n", None), ("400000 100000\n", 4), ("50000 100000\n", 1), ("", None)],
)
def test_a_containers_limit_counts_in_whole_cores(
    text: str, quota: int | None, tmp_path: Path
) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cpu_quota(tmp_path) == quota
    assert cpu_quota(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("listed", "tokens"),
    [
        (None, ["0", "1"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", ["1"]),
        ("1, 0", ["1", "0"]),
        ("1,-1,0", ["1"]),
        ("GPU-bbbb", ["GPU-bbbb"]),
        ("MIG-GPU-cafe/1/0", ["MIG-GPU-cafe/1/0"]),
    ],
)
def test_the_operators_cuda_visible_devices_is_kept(listed: str | None, tokens: list[str]) -> None:
    assert [gpu.token for gpu in visible_gpus(TWO.gpus, listed)] == tokens


def test_an_entry_of_the_operators_list_keeps_what_is_known_of_its_gpu() -> None:
    assert visible_gpus(TWO.gpus, "GPU-bbbb") == [replace(TWO.gpus[1], token="GPU-bbbb")]
    assert visible_gpus([], "3,GPU-x") == [Gpu("3", 3), Gpu("GPU-x", uuid="GPU-x")]


def test_an_operators_list_with_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="CUDA_VISIBLE_DEVICES names GPU 7"):
        visible_gpus(TWO.gpus, "0,7")


# -- who gets what ---------------------------------------------------------


def names(asked: str, machine: Machine, use_gpu: bool = True) -> list[str]:
    return [one.device for one in choose(asked, use_gpu, machine)]


def test_auto_takes_every_gpu_then_mps_then_the_cpu() -> None:
    assert names("auto", TWO) == ["cuda:0", "cuda:1"]
    assert names("auto", replace(NONE, has_mps=True)) == ["mps"]
    assert names("auto", NONE) == ["cpu"]


def test_use_gpu_false_keeps_to_the_cpu() -> None:
    assert names("auto", TWO, use_gpu=False) == ["cpu"]
    assert names("auto", replace(NONE, has_mps=True), use_gpu=False) == ["cpu"]
    assert names("cpu:2", TWO, use_gpu=False) == ["cpu", "cpu"]
    with pytest.raises(ConfigurationError, match=r"devices .* and use_gpu is false"):
        choose("0", False, TWO)


@pytest.mark.parametrize("variable", ["USE_GPU", "LANEFLEET_USE_GPU"])
def test_use_gpu_is_read_with_and_without_the_prefix(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "false")
    assert not load_settings().use_gpu
    monkeypatch.setenv("LANEFLEET_USE_GPU", "true")
    assert load_settings().use_gpu
    monkeypatch.setenv("LANEFLEET_USE_GPU", "perhaps")
    with pytest.raises(ConfigurationError, match=r"^LANEFLEET_USE_GPU: "):
        load_settings()


@pytest.mark.parametrize(
    ("asked", "devices_and_tokens"),
    [
        ("0,1", [("cuda:0", "0"), ("cuda:1", "1")]),
        ("cuda", [("cuda:0", "0"), ("cuda:1", "1")]),
        ("cuda:1", [("cuda:1", "1")]),
        ("1,1", [("cuda:1", "1"), ("cuda:1", "1")]),
        ("GPU-bbbb", [("GPU-bbbb", "GPU-bbbb")]),
        ("MIG-1234", [("MIG-1234", "MIG-1234")]),
        ("cpu", [("cpu", "")]),
        ("0, cpu:2", [("cuda:0", "0"), ("cpu", ""), ("cpu", "")]),
    ],
)
def test_devices_are_named_in_a_list(asked: str, devices_and_tokens: list[tuple[str, str]]) -> None:
    placements = plan(Settings(devices=asked), TWO)
    assert [(one.device, one.visible) for one in placements] == devices_and_tokens


def test_numbers_count_what_the_operator_left_visible() -> None:
    visible = replace(TWO, gpus=tuple(visible_gpus(TWO.gpus, "GPU-bbbb,0")))
    placements = plan(Settings(devices="0,1"), visible)
    assert [(one.device, one.visible) for one in placements] == [
        ("cuda:0", "GPU-bbbb"),
        ("cuda:1", "0"),
    ]


@pytest.mark.parametrize(
    ("asked", "machine", "message"),
    [
        ("2", TWO, r"'2': the visible GPUs are 0 \(GPU-aaaa-1\), 1 \(GPU-bbbb-2\)"),
        ("GPU-ffff", TWO, "'GPU-ffff': the visible GPUs are"),
        ("0", NONE, "no GPU is visible here; see what nvidia-smi says"),
        ("cuda", NONE, "no GPU is visible here"),
        ("mps", TWO, "it needs macOS on Apple silicon"),
        ("gpu0", TWO, "write auto, cuda, a GPU's number"),
        ("0,,1", TWO, "'': write auto"),
        ("cpu:0", TWO, "write auto"),
        ("-1", TWO, "write auto"),
        ("auto,cpu", TWO, "'auto': write auto"),
    ],
)
def test_a_device_that_cannot_be_had_is_refused_with_a_remedy(
    asked: str, machine: Machine, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        choose(asked, True, machine)


def test_each_process_stays_near_its_gpu_with_all_threads_of_its_node() -> None:
    placements = plan(Settings(devices="auto"), TWO)
    assert [(one.cores, one.threads) for one in placements] == [(LEFT, 8), (RIGHT, 8)]


def test_processes_that_share_cores_share_the_threads() -> None:
    same_node = replace(TWO, gpus=tuple(replace(gpu, near=LEFT) for gpu in TWO.gpus))
    assert [one.threads for one in plan(Settings(), same_node)] == [4, 4]
    assert [one.threads for one in plan(Settings(devices="cpu:3"), NONE)] == [5, 5, 5]
    assert [one.threads for one in plan(Settings(devices="cpu:99"), NONE)] == [1] * 99
    limited = replace(NONE, quota=4)
    assert [one.threads for one in plan(Settings(devices="cpu:2"), limited)] == [2, 2]


def test_affinity_is_left_alone_where_it_says_nothing_or_is_not_wanted() -> None:
    everywhere = replace(TWO, gpus=(replace(TWO.gpus[0], near=CORES),))
    elsewhere = replace(TWO, gpus=(replace(TWO.gpus[0], near=frozenset({90, 91})),))
    for machine, settings in (
        (everywhere, Settings()),
        (elsewhere, Settings()),
        (replace(TWO, gpus=TWO.gpus[:1]), Settings(cpu_affinity=False)),
    ):
        (placement,) = plan(settings, machine)
        assert (placement.cores, placement.threads) == (frozenset(), 16)


def test_the_operators_threads_come_before_ours() -> None:
    theirs = {"OMP_NUM_THREADS": "3,1"}
    assert plan(Settings(), TWO, theirs)[0].threads == 3
    assert plan(Settings(torch_threads=5), TWO, theirs)[0].threads == 5
    assert plan(Settings(), TWO, {"OMP_NUM_THREADS": "many"})[0].threads == 8


def test_the_environment_hides_the_other_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    placement = Placement("cuda:1", "1", 8)
    assert placement.environment() == {
        "CUDA_VISIBLE_DEVICES": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "OMP_NUM_THREADS": "8",
    }
    assert Placement("cpu", "", 2).environment()["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert placement.environment()["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_inside_its_process_a_gpu_is_the_first() -> None:
    found = [name_inside(one) for one in ("cuda:3", "GPU-x", "mps", "cpu")]
    assert found == ["cuda:0", "cuda:0", "mps", "cpu"]


# -- in the worker process -------------------------------------------------


def run_python(code: str, environment: Mapping[str, str] | None = None) -> str:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **(environment or {})},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.strip()


def test_planning_imports_neither_torch_nor_celery() -> None:
    code = """
        import sys
        import worker.__main__
        from common.settings import Settings
        import worker.devices.torch_setup
        import worker.process.supervisor
        worker.devices.placement.plan(Settings(), worker.devices.discovery.look_around())
        worker.devices.torch_setup.prepare("cpu", Settings())
        print(sorted({"torch", "celery", "transformers"} & sys.modules.keys()))
    """
    assert run_python(code).splitlines()[-1] == "[]"


def test_torch_gets_its_threads_and_no_second_pool() -> None:
    pytest.importorskip("torch")
    code = """
        import os
        from common.settings import Settings
        from worker.devices.placement import Placement, enter
        from worker.devices.torch_setup import math_threads, prepare
        core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        enter(Placement("cpu", "", 3, frozenset({core})))
        import torch
        prepare("cpu", Settings())
        prepare("cpu", Settings())
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        print(math_threads(), torch.get_num_threads(), torch.get_num_interop_threads(), cores)
    """
    assert run_python(code) == "3 3 1 1"


def test_threads_default_to_the_cores_of_a_process_that_nobody_placed() -> None:
    assert 1 <= math_threads() <= (os.cpu_count() or 1)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[float, str]]]:
    """A torch that believes in its GPU; collects calls that cap its memory."""
    torch = pytest.importorskip("torch")
    caps: list[tuple[float, str]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *given: caps.append(given)
    )
    monkeypatch.setattr(torch, "set_num_threads", lambda _count: None)
    torch_setup._cuda_works.cache_clear()
    backends = torch.backends
    before = (
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.allow_tf32,
        backends.cudnn.benchmark,
    )
    yield caps
    torch_setup._cuda_works.cache_clear()
    backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark = before


@pytest.mark.parametrize("wanted", [True, False])
def test_tf32_and_cudnn_are_set_as_asked(wanted: bool, cuda: list[tuple[float, str]]) -> None:
    import torch

    settings = Settings(allow_tf32=wanted, cudnn_benchmark=wanted, gpu_memory_fraction=0.4)
    prepare("cuda:0", settings)
    assert torch.backends.cuda.matmul.allow_tf32 is wanted
    assert torch.backends.cudnn.allow_tf32 is wanted
    assert torch.backends.cudnn.benchmark is wanted
    assert cuda == [(0.4, "cuda:0")]


def test_memory_is_not_capped_unless_asked(cuda: list[tuple[float, str]]) -> None:
    prepare("cuda:0", Settings())
    assert cuda == []


def test_a_torch_that_sees_no_gpu_is_said_once(
    cuda: list[tuple[float, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with structlog.testing.capture_logs() as logs:
        prepare("cuda:0", Settings(gpu_memory_fraction=0.4))
        prepare("cuda:0", Settings(gpu_memory_fraction=0.4))
    assert [one["event"] for one in logs] == ["torch_sees_no_gpu"]
    assert cuda == []
