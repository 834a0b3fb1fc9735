"""A batch whose API, worker and courier are killed in turns has each line once, and in order."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from api.cli.fleet import free_port
from tests.support.stack import Process, Stack, wait_until

ENDS = ("completed", "failed", "expired", "cancelled")
MEGABYTE = 1024 * 1024
DEADLINE_SECONDS = 400


class Fleet:
    """The three processes, each of which can be killed and started again."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        stack.environment |= {
            "LANEFLEET_FILES_URL": (stack.folder / "files").as_uri(),
            "LANEFLEET_LEASE_SECONDS": "2",
            "LANEFLEET_RENEW_SECONDS": "0.5",
        }
        self.port = free_port()
        self.running: dict[str, Process] = {}
        for name in ("api", "worker", "courier"):
            self.start(name)

    def start(self, name: str) -> None:
        if name == "api":
            self.running[name] = self._stack.api(port=self.port).process
        else:
            self.running[name] = getattr(self._stack, name)()

    def kill(self, name: str) -> None:
        self.running[name].kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def fleet(stack: Stack) -> Fleet:
    return Fleet(stack)


@pytest.fixture
def client(fleet: Fleet) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=8) as made:
        yield made


def lines(count: int) -> bytes:
    return b"".join(
        json.dumps(
            {
                "custom_id": f"r{n}",
                "method": "POST",
                "url": "/v1/jobs",
                "body": {"model": "echo", "input": "x" * (n % 100)},
            }
        ).encode()
        + b"\n"
        for n in range(count)
    )


def kill_in_turns(fleet: Fleet, status: Callable[[], Any]) -> tuple[Any, int]:
    """Kill one after the other until the batch has ended; returns it and the number of kills."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    for kills, name in enumerate(itertools.cycle(("courier", "worker", "api"))):
        batch = status()
        if batch.status in ENDS:
            return batch, kills
        assert time.monotonic() < deadline, batch
        before = batch.request_counts.completed
        fleet.kill(name)
        fleet.start(name)

        def moved(before: int = before) -> bool:
            batch = status()
            return batch.status in ENDS or batch.request_counts.completed > before

        wait_until(moved, 60, f"progress after the {name} was killed")
    raise AssertionError


@pytest.mark.slow
def test_every_line_is_there_once_whoever_is_killed(fleet: Fleet, client: openai.OpenAI) -> None:
    count = 50_000
    file = client.files.create(file=("in.jsonl", lines(count)), purpose="batch")
    endpoint: Any = "/v1/jobs"
    began = time.monotonic()
    made = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
    batch, kills = kill_in_turns(fleet, lambda: client.batches.retrieve(made.id))
    seconds = time.monotonic() - began
    assert batch.status == "completed", batch
    assert batch.error_file_id is None
    found = [
        json.loads(one) for one in client.files.content(batch.output_file_id).text.splitlines()
    ]
    assert [one["custom_id"] for one in found] == [f"r{n}" for n in range(count)]
    lengths = [one["response"]["body"]["result"]["length"] for one in found]
    assert lengths == [n % 100 for n in range(count)]
    print(f"{count} lines, {kills} kills, {seconds:.0f} s, {count / seconds:.0f} lines/s")
    assert kills >= 3


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(pid: int) -> int:
    (line,) = [
        one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in one
    ]
    return int(line.split()[1]) * 1024


def body_of(size: int) -> Iterator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
    piece = (b'{"x": "' + b"y" * 1013 + b'"}\n') * 64
    for first in range(0, size, len(piece)):
        yield piece[: size - first]
    yield b"\r\n--b--\r\n"


@pytest.mark.slow
def test_a_file_of_200_megabytes_is_never_whole_in_memory(stack: Stack) -> None:
    stack.environment["LANEFLEET_FILES_URL"] = (stack.folder / "files").as_uri()
    api = stack.api()
    size = 200 * MEGABYTE
    headers = {"content-type": "multipart/form-data; boundary=b"}
    small = httpx.post(f"{api.url}/v1/files", content=body_of(1024), headers=headers)
    assert small.status_code == 200, small.text
    before = rss_bytes(api.process.pid)
    sent = httpx.post(f"{api.url}/v1/files", content=body_of(size), headers=headers, timeout=300)
    assert sent.status_code == 200, sent.text
    uploaded = peak_bytes(api.process.pid) - before
    got = 0
    url = f"{api.url}/v1/files/{sent.json()['id']}/content"
    with httpx.stream("GET", url, timeout=300) as answer:
        for piece in answer.iter_bytes():
            got += len(piece)
    assert got == size
    grown = peak_bytes(api.process.pid) - before
    print(f"grew by {uploaded / MEGABYTE:.0f} MB in the upload, {grown / MEGABYTE:.0f} MB in all")
    assert grown < 64 * MEGABYTE


@pytest.mark.slow
def test_a_courier_that_stands_still_writes_nothing_once_another_has_its_batch(
    fleet: Fleet, client: openai.OpenAI, stack: Stack
) -> None:
    count = 20_000
    file = client.files.create(file=("in.jsonl", lines(count)), purpose="batch")
    endpoint: Any = "/v1/jobs"
    made = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
    status = client.batches.retrieve
    wait_until(lambda: status(made.id).request_counts.completed > 1_000, 60, "some results")
    fleet.running["courier"].signal(signal.SIGSTOP)
    stack.courier()
    wait_until(lambda: status(made.id).request_counts.completed > 10_000, 60, "the other's results")
    fleet.running["courier"].signal(signal.SIGCONT)
    wait_until(lambda: status(made.id).status in ENDS, 120, "the batch's end")
    batch = status(made.id)
    assert batch.status == "completed"
    assert batch.output_file_id is not None
    found = client.files.content(batch.output_file_id).text.splitlines()
    assert [json.loads(one)["custom_id"] for one in found] == [f"r{n}" for n in range(count)]


@pytest.mark.slow
def test_fifty_batches_fill_no_redis_and_let_others_pass(
    fleet: Fleet, client: openai.OpenAI, stack: Stack
) -> None:
    def megabytes() -> float:
        return int(stack.redis.info("memory")["used_memory"]) / MEGABYTE  # type: ignore[index]

    def health_ms() -> float:
        took = []
        with httpx.Client(base_url=fleet.url) as http:
            for _ in range(50):
                began = time.perf_counter()
                http.get("/health")
                took.append(time.perf_counter() - began)
        return sorted(took)[47] * 1000

    def p95_ms() -> float:
        took = []
        with httpx.Client(base_url=fleet.url, headers={"Prefer": "wait=30"}) as http:
            for _ in range(50):
                began = time.perf_counter()
                answer = http.post("/v1/jobs", json={"model": "echo", "input": 1, "cache": False})
                took.append(time.perf_counter() - began)
                assert answer.json()["state"] == "succeeded", answer.text
        return sorted(took)[47] * 1000

    idle_ms, before = p95_ms(), megabytes()
    file = client.files.create(file=("in.jsonl", lines(50_000)), purpose="batch")
    endpoint: Any = "/v1/jobs"
    made = [
        client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h").id
        for _ in range(50)
    ]

    def done() -> int:
        return sum(client.batches.retrieve(one).request_counts.completed for one in made)

    wait_until(lambda: done() > 5_000, 120, "results")
    busy_ms, peak, plain_ms = p95_ms(), megabytes(), health_ms()
    print(
        f"p95 {idle_ms:.0f} ms idle, {busy_ms:.0f} ms beside 50 batches ({done()} lines done); "
        f"Redis grew by {peak - before:.0f} MB; /health alone p95 {plain_ms:.0f} ms"
    )
    assert peak - before < 128
