"""GPU: ResNet-50 in fp16 from JPEG bytes at batch 64, through the whole system.

Runs where CUDA is; elsewhere the table holds one note that it did not. The GPU's
busy share is the time between CUDA events around each batch, by the wall clock.
Next to it stand an offline loop with the same handler, the same loop on pictures
that are decoded already, and what a V100 computes by its published figure.

Written without a GPU at hand: it has not run on one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import orjson
import yaml

from tests.benchmarks import bulk
from tests.benchmarks.arena import Arena, Sample
from tests.benchmarks.efficiency import _bodies
from tests.benchmarks.fronts import Front
from tests.benchmarks.load import Caller
from tests.benchmarks.measure import medians, wait_for
from tests.benchmarks.model_inputs import photos
from tests.benchmarks.peers import LaneWorkers
from tests.benchmarks.report import Table, Target, ratio
from tests.support.stack import ROOT, Stack

PUBLISHED_COMPUTE_ONLY = 5_333.0
"""Images/s of ResNet-50 on a V100, as its maker published them; nothing is decoded or copied."""
BATCH, PICTURES, FEW = 64, 6_400, 256
_SECONDS = 300.0
OURS = "Lanefleet, bulk to last result"
OFFLINE, DECODED = "offline: decode, then infer", "offline: infer alone, one batch ahead"


def run(arena: Arena) -> Table:
    """Time the fleet and both loops in turns."""
    table = Table(
        "gpu",
        f"ResNet-50 (random weights, fp16) from JPEG bytes, batches of {BATCH}, one GPU",
        ["", "images/s", "x 5,333", "GPU busy", "decode ms/image", "fill"],
    )
    if not _cuda():
        table.notes.append("did not run: torch finds no CUDA device here.")
        return table
    count = arena.size(PICTURES, FEW)
    fleet = _Fleet(arena)
    samples = arena.interleave(
        {
            OURS: lambda: fleet.drain(count),
            OFFLINE: lambda: _offline("decode", count),
            DECODED: lambda: _offline("decoded", count),
        },
        seconds=_SECONDS,
    )
    _fill(table, {name: medians(taken) for name, taken in samples.items()})
    table.samples = samples
    return table


def _cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def _fill(table: Table, found: dict[str, dict[str, float]]) -> None:
    for name, one in found.items():
        rate = one["images_per_second"]
        table.rows.append(
            [
                name,
                rate,
                rate / PUBLISHED_COMPUTE_ONLY,
                f"{one['busy']:.0%}",
                one["decode_ms"],
                one["fill"],
            ]
        )
    ours, alone = found[OURS], found[DECODED]["images_per_second"]
    cores = os.cpu_count() or 1
    decodable = cores * 1e3 / ours["decode_ms"] if ours["decode_ms"] else alone
    table.targets = [
        Target(5, "x the offline loop", ratio(ours["images_per_second"], _rate(found, OFFLINE)), 1),
    ]
    if decodable >= alone:
        busy = Target(5, "GPU busy, the cores decode fast enough", ours["busy"], 0.9)
        table.targets.append(busy)
    table.notes.append(bound(decodable, alone, cores))


def bound(decodable: float, alone: float, cores: int) -> str:
    """Which bound applies: the cores, which decode, or the GPU, which computes."""
    figures = (
        f"{cores} cores can decode about {decodable:,.0f} images/s, the GPU alone runs {alone:,.0f}"
    )
    if decodable >= alone:
        return f"{figures}: the GPU is the bound."
    return f"{figures}: decoding is the bound; more cores, or `gpu_decode`, would help."


def _rate(found: dict[str, dict[str, float]], name: str) -> float:
    return found[name]["images_per_second"]


class _Fleet:
    """Our front and one worker that serves ResNet-50 in fp16."""

    def __init__(self, arena: Arena) -> None:
        model = {
            "handler": "resnet50",
            "input": "image",
            "weights": "random",
            "precision": "fp16",
            "max_batch": BATCH,
            "run_identical_once": False,
            "options": {"gpu_decode": bool(os.environ.get("BENCH_GPU_DECODE"))},
        }
        path = Path(arena.folder) / "gpu.yaml"
        path.write_text(yaml.safe_dump({"models": {"resnet50": model}}))
        threads = str(max(2, (os.cpu_count() or 2) - 2))
        self._stack: Stack = arena.stack(
            LANEFLEET_CATALOG=str(path),
            LANEFLEET_DEVICES="0",
            LANEFLEET_USE_GPU="true",
            LANEFLEET_DECODE_THREADS=threads,
        )
        self._worker = LaneWorkers(self._stack, ("resnet50",), ("resnet50",))
        self._stack.await_worker(self._worker.process)
        api = self._stack.api("resnet50")
        self._front = Front(api.url, api.process, self._worker.redis)

    def drain(self, count: int) -> Sample:
        """From the first byte of NDJSON until every result is stored."""
        lines = [
            orjson.dumps(
                {
                    "model": "resnet50",
                    "input": {"image": b64encode(one).decode()},
                    "cache": False,
                }
            )
            for one in photos(min(count, FEW))
        ]
        lines = (lines * -(-count // len(lines)))[:count]
        before, caller = self._report(), Caller(self._front.url)
        for body in _bodies(lines):
            answer = caller.post("/v1/jobs/bulk", body, content_type="application/x-ndjson")
            bulk.accepted(*answer)
        wait_for(lambda: self._worker.done(count), _SECONDS, "every result")
        wait_for(lambda: self._report()["finished"] - before["finished"] >= count, 10, "a report")
        sample = _between(before, self._report(), count)
        self._worker.clear()
        return sample

    def _report(self) -> dict[str, Any]:
        return self._stack.reports()[0].as_dict()


def _between(before: dict[str, Any], after: dict[str, Any], count: int) -> Sample:
    """By the worker's own account, less the time in which it had no work."""

    def grown(*path: str) -> float:
        old: Any = before
        new: Any = after
        for step in path:
            old, new = (old or {}).get(step), new[step]
        return float(new) - float(old or 0)

    lane = ("lanes", "resnet50")
    seconds = grown("device_time", "seconds") - grown("device_time", "idle", "no_work")
    return {
        "images_per_second": count / seconds,
        "busy": grown(*lane, "stages", "infer", "seconds") / seconds,
        "decode_ms": grown(*lane, "stages", "decode", "seconds") / count * 1e3,
        "fill": grown(*lane, "jobs") / grown(*lane, "room"),
    }


def _offline(how: str, count: int) -> Sample:
    command = [sys.executable, "-m", "tests.benchmarks.gpu_offline", how, str(count), str(BATCH)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode:
        raise RuntimeError(f"the offline loop failed: {done.stderr[-500:]}")
    figures: Sample = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """`python -m tests.benchmarks --only gpu` runs it; this says only whether it would."""
    print("a CUDA device is here" if _cuda() else "did not run: torch finds no CUDA device here.")


if __name__ == "__main__":
    main()
