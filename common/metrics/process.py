"""The metrics of a process, under the names of the client library, which collects them."""

from __future__ import annotations

from common.metrics.declaration import Kind, Metric, Process, Total

_ALL: tuple[Process, ...] = ("api", "worker", "courier")


def _process(name: str, kind: Kind, text: str, unit: str, total: Total = "sum") -> Metric:
    return Metric(f"process_{name}", kind, text, (), unit, _ALL, "Linux", total)


CPU = _process("cpu_seconds_total", "counter", "Processor time, user and system.", "seconds")
RESIDENT = _process("resident_memory_bytes", "gauge", "Resident memory.", "bytes")
VIRTUAL = _process("virtual_memory_bytes", "gauge", "Virtual memory.", "bytes")
OPEN_FILES = _process("open_fds", "gauge", "Open file descriptors.", "descriptors")
MAX_FILES = _process(
    "max_fds", "gauge", "The limit on open file descriptors.", "descriptors", "min"
)
STARTED = _process("start_time_seconds", "gauge", "Start of the process.", "Unix seconds", "min")
