"""A worker's metrics: the bound on series, a GPU's figures, pauses, and money."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from common.catalog import ModelSpec
from common.metrics.exposition import text_of
from common.settings import Settings
from tests.support.metrics import samples, undeclared, value
from worker.batching.batcher import Batch
from worker.devices.nvml import gpu_reader
from worker.guard.arrival import Arrival
from worker.jobs.execution import Execution
from worker.jobs.tenant_usage import TenantUsage
from worker.jobs.worker_counts import WorkerCounts
from worker.lanes.device_time import DeviceTime
from worker.lanes.lane import Lane
from worker.lanes.redis_health import RedisHealth
from worker.lanes.stages import STAGES
from worker.observability.device_metrics import DeviceMetrics
from worker.observability.metrics import WorkerCollector
from worker.observability.view import Counters, EventCounts
from worker.pipeline.measures import measure


def lane(name: str = "m") -> Lane:
    spec = ModelSpec(name=name, handler="echo", max_batch=8, version="1")
    made = Lane(name, spec, result_ttl_seconds=60, look_ahead_jobs=256, max_fetching=8)
    made.handler = object()  # type: ignore[assignment]
    return made


def view(*lanes: Lane, tenants: TenantUsage | None = None) -> Any:
    now = time.monotonic()
    process = WorkerCounts(7, 6, 5, 4, 3, 1, 2, 1, tenants or TenantUsage(0))
    arrival = Arrival(now - 1.5)
    arrival.published(now, reserved=now)
    return SimpleNamespace(
        lanes={one.name: one for one in lanes},
        device="cuda:0",
        device_time=DeviceTime(now),
        redis_health=RedisHealth(now),
        event_counts=EventCounts(1, 2),
        rss_mb=lambda: 100.0,
        arrival=arrival,
        counters=lambda: Counters(9, 1, 2, 3, 4, process),
    )


def batch(*tenants: str, costs: tuple[float, ...] = ()) -> Batch[Execution]:
    made = [Execution(b"t", 1, 0, str(at), 0.0, tenant) for at, tenant in enumerate(tenants)]
    for execution, cost in zip(made, costs, strict=False):
        execution.cost = cost
    return Batch(made, float(len(made)))


def run(one: Lane, jobs: Batch[Execution], seconds: float, tenants: TenantUsage) -> None:
    measure(one, jobs, jobs.runs(), seconds, time.monotonic(), tenants)


def scraped(*lanes: Lane, tenants: TenantUsage | None = None, **settings: Any) -> str:
    collector = WorkerCollector(view(*lanes, tenants=tenants), Settings(**settings))
    return text_of(collector.collect()).decode()


def test_a_lane_has_at_most_32_series_with_every_stage_and_failures() -> None:
    busy, idle = lane("busy"), lane("idle")
    absent = lane("absent")
    absent.handler = None
    for stage in STAGES:
        busy.stats.stages.stages[stage].observe(0.02)
    run(busy, batch("", ""), 0.02, TenantUsage(0))
    busy.stats.version("1").failed += 1
    text = scraped(busy, idle, absent)
    assert undeclared(text) == []
    by_lane: dict[str, int] = {}
    for one in samples(text):
        if "lane" in one.labels:
            by_lane[one.labels["lane"]] = by_lane.get(one.labels["lane"], 0) + 1
    assert by_lane["busy"] <= 32
    assert 0 < by_lane["idle"] <= 32
    assert "absent" not in by_lane


def test_first_scores_and_shadows_have_few_series_of_their_own() -> None:
    one, plain = lane("sure"), lane("plain")
    for score in (0.1, 0.8, 0.995):
        one.stats.version("2").was_sure(score)
    shadow = one.stats.shadow("sure@3")
    for agreement in (1.0, 1.0, 0.0, 0.95):
        shadow.agreement.observe(agreement)
    shadow.failed, shadow.dropped = 5, 6
    text = scraped(one, plain)
    assert undeclared(text) == []
    scores, agrees = "lanefleet_worker_confidence_ratio", "lanefleet_worker_shadow_agreement_ratio"
    named = [each for each in samples(text) if each.name.startswith((scores, agrees))]
    assert {each.labels["lane"] for each in named} == {"sure"}
    assert len(named) == 8 + 7
    assert value(text, f"{scores}_bucket", le="0.9", model_version="2") == 2
    assert value(text, f"{agrees}_bucket", le="0.5", shadow="sure@3") == 1
    assert value(text, f"{agrees}_sum") == pytest.approx(2.95)
    jobs = "lanefleet_worker_shadow_jobs_total"
    outcomes = ("compared", "failed", "dropped")
    assert [value(text, jobs, outcome=outcome) for outcome in outcomes] == [4, 5, 6]


def test_waits_and_runs_are_in_their_buckets_and_stages_in_their_sums() -> None:
    one = lane()
    for seconds in (0.05, 0.5, 5.0, 30.0, 500.0):
        one.stats.stages.stages["queue"].observe(seconds)
    one.stats.stages.stages["publish"].observe(1.0)
    one.stats.stages.stages["finish"].observe(2.0)
    for seconds in (0.005, 0.005, 0.5):
        run(one, batch("", "", ""), seconds, TenantUsage(0))
    text = scraped(one)
    queue = "lanefleet_worker_queue_wait_seconds_bucket"
    assert [value(text, queue, le=edge) for edge in ("0.1", "1.0", "10.0", "50.0", "+Inf")] == [
        *(1, 2, 3, 4, 5)
    ]
    infer = "inference_duration_seconds_bucket"
    assert [value(text, infer, le=edge, model_version="1") for edge in ("0.01", "0.1", "1.0")] == [
        *(2, 2, 3)
    ]
    assert value(text, "lanefleet_worker_stage_seconds_sum", stage="publish") == 3.0
    assert value(text, "lanefleet_worker_stage_seconds_count", stage="publish") == 1
    assert value(text, "lanefleet_worker_batch_size_bucket", le="2.0") == 0
    assert value(text, "lanefleet_worker_batch_size_bucket", le="4.0") == 3
    assert value(text, "lanefleet_worker_batch_jobs_total") == 9
    assert value(text, "lanefleet_worker_batch_room_total") == 24


def test_tenants_are_charged_by_the_cost_of_their_jobs() -> None:
    one, tenants = lane(), TenantUsage(2)
    run(one, batch("a", "b", "", costs=(1.0, 2.0, 1.0)), 4.0, tenants)
    run(one, batch("a", "a"), 1.0, tenants)
    run(one, batch("c", "c"), 7.0, tenants)
    run(one, batch("", ""), 9.0, tenants)
    text = scraped(one, tenants=tenants, device_hour_price=3600.0)
    seconds = "lanefleet_worker_tenant_device_seconds_total"
    assert {t: value(text, seconds, tenant=t) for t in ("a", "b", "other")} == {
        **{"a": 2.0, "b": 2.0, "other": 7.0}
    }
    assert value(text, "lanefleet_worker_tenant_items_total", tenant="a") == 3
    assert value(text, "lanefleet_worker_tenant_spend_total", tenant="a") == 2.0
    assert value(text, "lanefleet_worker_device_hour_price") == 3600
    assert "spend" not in scraped(one, tenants=tenants)


class Nvml:
    """nvidia-ml-py at its boundary: functions, and one class of errors."""

    class NVMLError(Exception):
        pass

    def __init__(self, *missing: str) -> None:
        self.missing = missing
        self.asked: list[object] = []

    def nvmlInit(self) -> None:
        if "driver" in self.missing:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        self.asked.append(index)
        return f"handle {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object:
        self.asked.append(uuid)
        return f"handle {uuid}"

    def nvmlDeviceGetMemoryInfo(self, _handle: object) -> Any:
        return SimpleNamespace(total=80 * 2**30, used=20 * 2**30, free=60 * 2**30)

    def nvmlDeviceGetUtilizationRates(self, _handle: object) -> Any:
        if "rates" in self.missing:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(gpu=75, memory=10)

    def nvmlDeviceGetPowerUsage(self, _handle: object) -> int:
        return 250_500


def _device(nvml: Nvml | None, visible: str = "1", device: str = "cuda:0", **settings: Any) -> str:
    def load() -> Any:
        if nvml is None:
            raise ImportError("No module named 'pynvml'")
        return nvml

    one = view()
    one.device = device
    metrics = DeviceMetrics(
        one,
        Settings(**settings),
        lambda name: gpu_reader(name, {"CUDA_VISIBLE_DEVICES": visible}, load),
    )
    return text_of(metrics.collect()).decode()


@pytest.mark.parametrize("visible", ["1", "GPU-5f3c"])
def test_a_gpu_is_read_as_its_driver_tells(visible: str) -> None:
    nvml = Nvml()
    text = _device(nvml, visible, metrics_compatibility=True)
    assert nvml.asked == [int(visible) if visible.isdigit() else visible]
    assert undeclared(text) == []
    assert value(text, "lanefleet_worker_device_utilization_ratio", device=visible) == 0.75
    assert value(text, "lanefleet_worker_device_memory_used_bytes", device=visible) == 20 * 2**30
    assert value(text, "lanefleet_worker_device_memory_bytes", device=visible) == 80 * 2**30
    assert value(text, "lanefleet_worker_device_power_watts", device=visible) == 250.5
    assert value(text, "model_serving_gpu_utilization_percent", gpu_id=visible) == 75


def test_what_a_slice_does_not_tell_has_no_series() -> None:
    text = _device(Nvml("rates"), "MIG-1/2/3", metrics_compatibility=True)
    assert "utilization" not in text
    assert value(text, "lanefleet_worker_device_power_watts") == 250.5


@pytest.mark.parametrize(
    ("nvml", "visible", "device"),
    [
        (None, "0", "cuda:0"),
        (Nvml("driver"), "0", "cuda:0"),
        (Nvml(), "", "cuda:0"),
        (Nvml(), "0", "cpu"),
        (Nvml(), "0", "mps"),
    ],
)
def test_without_a_driver_or_a_gpu_there_are_no_series(
    nvml: Nvml | None, visible: str, device: str
) -> None:
    text = _device(nvml, visible, device)
    assert "device_memory" not in text
    assert "lanefleet_worker_device_busy_ratio" in text
