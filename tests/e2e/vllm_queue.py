"""What the queue costs a server: the same load through a worker, and sent to it directly.

    python -m tests.e2e.vllm_queue --vllm /opt/vllm/bin/vllm --model /models/smollm2

Not a test and not run in CI: it needs vLLM in an environment of its own, and a model on this
machine. One vLLM serves both ways, in turns; a worker uses it by its `url`. With `--kill` the
worker starts vLLM itself, which is killed amid the load: then no job may be lost.

The load is 64 requests, prompts of 4-32 words, answers of 8-256 tokens (exactly: `min_tokens` is
`max_tokens`), of which vLLM runs 16 at once. Printed are tokens a second of each round, and the
ratio of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from api.cli.fleet import free_port
from common.jobs.job import Job
from tests.support.stack import Stack, running_redis, wait_until

MODEL = "served"
_TEXT = "the river runs under an old bridge and people walk over it in the morning light"
WORDS = _TEXT.split()
CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
START_SECONDS = 600.0
KILL_AFTER_SECONDS = 15.0


class Load:
    """The requests; the same in every round."""

    def __init__(self, count: int, longest: int) -> None:
        draw = random.Random(7)
        self.requests = [
            (" ".join(draw.choices(WORDS, k=draw.randint(4, 32))), draw.randint(8, longest))
            for _ in range(count)
        ]
        self.tokens = sum(tokens for _, tokens in self.requests)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--vllm", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--longest", type=int, default=256)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stream", action="store_true", help="jobs with `stream`")
    parser.add_argument("--kill", action="store_true", help="kill the server amid the load")
    return parser.parse_args()


def command(asked: argparse.Namespace, port: str) -> list[str]:
    return [
        *(str(asked.vllm), "serve", str(asked.model), "--served-model-name", MODEL),
        *("--host", "127.0.0.1", "--port", port, "--max-model-len", "2048"),
        *("--max-num-seqs", str(asked.slots), "--enforce-eager"),
    ]


@contextmanager
def running(asked: argparse.Namespace, folder: Path) -> Iterator[str]:
    """A vLLM of our own; its URL."""
    port = free_port()
    with (folder / "vllm.log").open("wb") as log:
        process = subprocess.Popen(
            command(asked, str(port)),
            env={**os.environ, **CPU},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: asyncio.run(healthy(url)), START_SECONDS, "vLLM")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


async def healthy(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def direct(url: str, load: Load) -> float:
    """All requests at once, streamed; how long they took."""

    async def one(session: aiohttp.ClientSession, prompt: str, tokens: int) -> int:
        body: dict[str, Any] = {
            **{"model": MODEL, "prompt": prompt, "temperature": 0, "stream": True},
            **{"max_tokens": tokens, "min_tokens": tokens},
            "stream_options": {"include_usage": True},
        }
        async with session.post(f"{url}/v1/completions", json=body) as response:
            assert response.status == 200, await response.text()
            return sum([len(line) async for line in response.content])

    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        began = time.perf_counter()
        await asyncio.gather(*(one(session, *request) for request in load.requests))
        return time.perf_counter() - began


def queued(stack: Stack, load: Load, *, stream: bool) -> float:
    """All requests as jobs; how long they took."""
    jobs = [
        Job(
            "llm",
            prompt,
            {"temperature": 0, "max_tokens": tokens, "min_tokens": tokens, "stream": stream},
        )
        for prompt, tokens in load.requests
    ]
    began = time.perf_counter()
    ids = stack.publish(jobs)
    wait_until(lambda: sum(stack.states(ids).get(one, 0) for one in ENDS) == len(ids), 3600, "jobs")
    took = time.perf_counter() - began
    assert stack.states(ids) == {"succeeded": len(ids)}, stack.states(ids)
    said = 0
    for job_id in ids:
        record = stack.record(job_id)
        assert record is not None
        result: Any = record.value
        said += result["usage"]["completion_tokens"]
    assert said == load.tokens, f"{said} tokens of {load.tokens}"
    return took


ENDS = ("succeeded", "failed", "canceled", "expired")


def serve(stack: Stack, asked: argparse.Namespace, **where: Any) -> None:
    """A worker whose lane `llm` is this server."""
    slots = asked.slots + asked.slots // 4  # so that the next are at hand there
    options = {"engine": "vllm", "slots": slots, "model": MODEL, **where}
    entry = {"handler": "openai-server", "task": "generate", "options": options}
    path = stack.folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": {"llm": entry}}))
    stack.environment["LANEFLEET_CATALOG"] = str(path)
    process = stack._start("worker", ["-m", "worker"], "llm", {})
    stack.await_worker(process, START_SECONDS)


def compare(stack: Stack, asked: argparse.Namespace, load: Load) -> None:
    """Rounds of both ways, in turns."""
    with running(asked, stack.folder) as url:
        serve(stack, asked, url=url)
        small = Load(asked.slots, 8)
        asyncio.run(direct(url, small))
        queued(stack, small, stream=asked.stream)
        rates: dict[str, list[float]] = {"direct": [], "queue": []}
        for number in range(asked.rounds):
            rates["direct"].append(load.tokens / asyncio.run(direct(url, load)))
            rates["queue"].append(load.tokens / queued(stack, load, stream=asked.stream))
            print(
                f"round {number + 1}: direct {rates['direct'][-1]:.1f} tok/s, "
                f"queue {rates['queue'][-1]:.1f} tok/s, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
        ratio = statistics.median(rates["queue"]) / statistics.median(rates["direct"])
        print(f"the queue gives {ratio:.3f} of the tokens a second that the server gives directly")


def kill_amid(stack: Stack, asked: argparse.Namespace, load: Load) -> None:
    """The worker's vLLM is killed amid the load; `queued` counts what came of each job."""
    serve(stack, asked, command=command(asked, "{port}"), environment=CPU, patience_seconds=600)
    killer = threading.Timer(KILL_AFTER_SECONDS, kill_server, [stack.processes[0].pid])
    killer.start()
    took = queued(stack, load, stream=asked.stream)
    killer.join(10)
    print(f"killed amid {len(load.requests)} jobs: 0 lost, {load.tokens} tokens in {took:.0f} s")


def kill_server(worker: int) -> None:
    """Kill the server of this worker; it is its watcher's only child."""
    (watcher,) = children_of(worker)
    for server in children_of(watcher):
        os.kill(server, signal.SIGKILL)
        print(f"killed {server}", flush=True)


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what runs is ended
    asked = arguments()
    load = Load(asked.requests, asked.longest)
    print(f"{len(load.requests)} requests, {load.tokens} tokens, {asked.slots} at once", flush=True)
    with tempfile.TemporaryDirectory() as folder, running_redis(Path(folder) / "redis") as server:
        stack = Stack(server.url, Path(folder))
        try:
            (kill_amid if asked.kill else compare)(stack, asked, load)
        finally:
            stack.close()


if __name__ == "__main__":
    main()
