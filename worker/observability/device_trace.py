"""What the device's thread does inside torch, for some seconds, on request of this machine's user.

torch's profiler records the thread that starts it, so the device's thread starts and ends it,
between two batches. Nothing is recorded otherwise, and nothing is paid.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.profiling.local_socket import FOLDER, LocalRefused, LocalSocket
from common.profiling.tracing import permit_tracing
from worker.devices.torch_import import finish_torch

RunOnDevice = Callable[[Callable[[], object]], None]
"""Queues a function for the device's thread, between two batches."""

_MOST_SECONDS = 60.0
_DEVICE_SECONDS = 180.0
"""How long a batch in progress, or the end of the recording, may take."""
_ROWS = 10


class DeviceTrace:
    """Records on the device's thread; one recording at a time."""

    def __init__(self, run_on_device: RunOnDevice, device: str, folder: Path) -> None:
        """folder is where traces are written, for whoever asked to take away."""
        self._run_on_device = run_on_device
        self._on_gpu = device.startswith("cuda")
        self._folder = folder
        self._lock = threading.Lock()

    def answer(self, request: Mapping[str, Any], _pid: int) -> dict[str, Any]:
        """Record for `seconds`; the trace's file and its top ten. Raises LocalRefused."""
        seconds = min(float(request["seconds"]), _MOST_SECONDS)
        if "torch" not in sys.modules:
            raise LocalRefused(
                "no model of this worker has loaded torch, whose profiler records the device; for "
                "ONNX Runtime see the flame graph, or the profiler of onnxruntime itself"
            )
        if not self._lock.acquire(blocking=False):
            raise LocalRefused("another recording of this device is under way: wait for it to end")
        try:
            return self._record(seconds)
        finally:
            self._lock.release()

    def _record(self, seconds: float) -> dict[str, Any]:
        import torch

        # The profiler looks for torch's compiler, whose import takes seconds and fails on a torch
        # that is not whole: here, and not between two batches of the device's thread.
        finish_torch()
        hasattr(torch, "_inductor")
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if self._on_gpu:
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        profile = torch.profiler.profile(activities=kinds, record_shapes=True, profile_memory=True)
        self._on_device(profile.start)
        began = time.monotonic()
        time.sleep(seconds)
        self._on_device(profile.stop)
        took = time.monotonic() - began
        handle, name = tempfile.mkstemp(prefix="trace-", suffix=".json", dir=self._folder)
        os.close(handle)
        profile.export_chrome_trace(name)
        rows = top_rows(profile.key_averages(group_by_input_shape=True), on_gpu=self._on_gpu)
        return {"file": name, "seconds": round(took, 2), "on_gpu": self._on_gpu, "rows": rows}

    def _on_device(self, do: Callable[[], object]) -> None:
        """Have the device's thread do this, and wait until it has; raises what that raises."""
        done, raised = threading.Event(), list[BaseException]()

        def run() -> None:
            try:
                do()
            except BaseException as exc:  # noqa: BLE001 - told to the one who asked
                raised.append(exc)
            finally:
                done.set()

        self._run_on_device(run)
        if not done.wait(_DEVICE_SECONDS):
            raise LocalRefused(f"the device's thread was not free within {_DEVICE_SECONDS:.0f} s")
        if raised:
            raise LocalRefused(f"torch's profiler failed: {raised[0]}") from raised[0]


def top_rows(averages: Any, *, on_gpu: bool) -> list[dict[str, Any]]:
    """The ten operations, by input shapes, that took the device longest; its CPU where it has no
    GPU. Times in ms, memory in MB, both without what they call.
    """
    side = "device" if on_gpu else "cpu"

    def taken(one: Any) -> float:
        return float(getattr(one, f"self_{side}_time_total"))

    ordered = sorted((one for one in averages if taken(one) > 0), key=taken, reverse=True)
    whole = sum(map(taken, ordered))
    return [
        {
            "operation": one.key,
            "shapes": [shape for shape in one.input_shapes if shape],
            "calls": one.count,
            "ms": round(taken(one) / 1000, 3),
            "share": round(taken(one) / whole, 4),
            "mb": round(getattr(one, f"self_{side}_memory_usage", 0) / 1e6, 3),
        }
        for one in ordered[:_ROWS]
    ]


def socket_of_worker(folder: Path, run_on_device: RunOnDevice, device: str) -> LocalSocket:
    """The socket of this worker process; not started. folder is the state folder."""
    trace = DeviceTrace(run_on_device, device, folder / FOLDER)
    answers = {"trace": permit_tracing, "device": trace.answer}
    return LocalSocket(folder, f"worker-{os.getpid()}", answers)
