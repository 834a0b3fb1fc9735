"""A worker's device: its time by use, and what its driver says.

Time that is reassigned from one cause of idleness to another between two scrapes must not
decrease a counter, so each keeps its maximum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from common.metrics import compatible
from common.metrics import worker as declared
from common.metrics.declaration import MetricFamily
from common.settings import Settings
from worker.devices.nvml import GpuReader, gpu_reader
from worker.observability.view import EngineView


class DeviceMetrics:
    """The metrics of the device of one worker process."""

    def __init__(
        self,
        view: EngineView,
        settings: Settings,
        find_gpu: Callable[[str], GpuReader | None] = gpu_reader,
    ) -> None:
        self._view = view
        self._compatible = settings.metrics_compatibility
        self._highest: dict[str, float] = {}
        self._gpu = find_gpu(view.device)

    def collect(self) -> Iterator[MetricFamily]:
        """Its seconds by state, and the driver's figures where it has a driver."""
        device, now = self._view.device_time, time.monotonic()
        seconds = declared.DEVICE_SECONDS.family()
        states: list[tuple[str, float]] = [("busy", device.busy_at(now))]
        states += device.idle_seconds(now).items()
        for state, spent in states:
            highest = self._highest[state] = max(spent, self._highest.get(state, 0.0))
            seconds.add(highest, state)
        yield seconds
        yield declared.DEVICE_BUSY.of(device.recent_busy)
        beside = sum(lane.stats.stages.beside_seconds for lane in self._view.lanes.values())
        yield declared.DECODE_BESIDE.of(beside)
        if self._gpu is not None:
            yield from self._driver(self._gpu)

    def _driver(self, gpu: GpuReader) -> Iterator[MetricFamily]:
        said = gpu.read()
        for metric, value in (
            (declared.DEVICE_UTILIZATION, said.utilization),
            (declared.DEVICE_MEMORY_USED, said.memory_used_bytes),
            (declared.DEVICE_MEMORY, said.memory_bytes),
            (declared.DEVICE_POWER, said.power_watts),
        ):
            if value is not None:
                yield metric.of(value, said.gpu)
        if self._compatible and said.utilization is not None:
            yield compatible.SERVING_GPU.of(said.utilization * 100, said.gpu)
