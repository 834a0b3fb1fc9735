"""The offline loops of `gpu`: `decode|decoded COUNT BATCH`; prints one line of JSON.

`decode` decodes each batch with a pool of threads while the last one runs; with
`decoded` only the GPU works. Both use our handler, so the network is the same.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from common.catalog import ModelSpec
from tests.benchmarks.model_inputs import photos
from worker.models.resnet50 import ResNet50
from worker.transfer import Later


def load(device: str, precision: str) -> ResNet50:
    """The handler, on a device."""
    model = ResNet50()
    spec = ModelSpec(name="resnet50", handler="resnet50", weights="random", precision=precision)
    model.load(spec, device)
    return model


def loop(model: ResNet50, count: int, size: int, *, decoded: bool) -> dict[str, float]:
    """Run so many pictures in batches of `size`, one batch in flight."""
    pictures = photos(min(count, 4 * size))
    pool = ThreadPoolExecutor(os.cpu_count())
    clock = {"decode": 0.0}

    def decode(number: int) -> Any:
        began = time.thread_time()
        item = model.decode(pictures[number % len(pictures)], {})
        clock["decode"] += time.thread_time() - began
        return item

    def batch(first: int) -> list[Any]:
        return list(pool.map(decode, range(first, min(first + size, count))))

    ready = [batch(first) for first in range(0, min(count, 4 * size), size)] if decoded else []
    finish(model.infer(ready[0] if ready else batch(0)))  # warm
    busy, flight, clock["decode"] = 0.0, None, 0.0
    began = time.monotonic()
    for number, first in enumerate(range(0, count, size)):
        following = model.infer(ready[number % len(ready)] if ready else batch(first))
        busy += finish(flight)
        flight = following
    busy += finish(flight)
    seconds = time.monotonic() - began
    return {
        "images_per_second": count / seconds,
        "busy": busy / seconds,
        "decode_ms": clock["decode"] / count * 1e3,
        "fill": 1.0,
    }


def finish(flight: Any) -> float:
    """Wait for a batch; the seconds that it had the device, where that is known."""
    if not isinstance(flight, Later):
        return 0.0
    flight.wait()
    return flight.device_seconds()


def main() -> None:
    """As the command line says."""
    how, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    model = load("cuda:0", "fp16")
    print(json.dumps(loop(model, count, size, decoded=how == "decoded")))


if __name__ == "__main__":
    main()
