"""The API's processes: they drain, share a port, are replaced and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from api.cli.fleet import free_port
from tests.support.stack import ROOT, Process, Stack, wait_until

_NUMBERS = count()


def job() -> dict[str, Any]:
    """A job unlike any before, so that no cache answers it."""
    return {"model": "echo", "input": f"hello {next(_NUMBERS)}"}


def events(process: Process, name: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in process.output().splitlines() if line.startswith("{")]
    return [event for event in found if event["event"] == name]


def test_sigterm_lets_those_go_who_wait_and_ends_with_status_0(stack: Stack) -> None:
    api = stack.api("echo")  # and no worker
    answers: list[httpx.Response] = []

    def wait_for_it() -> None:
        headers = {"Prefer": "wait=30"}
        answers.append(httpx.post(f"{api.url}/v1/jobs", json=job(), headers=headers, timeout=40))

    waiters = [threading.Thread(target=wait_for_it) for _ in range(20)]
    for waiter in waiters:
        waiter.start()
    lane = stack.redis
    wait_until(lambda: lane.llen("echo") == 20, what="20 jobs queued")
    streamed: list[str] = []
    queued = httpx.post(f"{api.url}/v1/jobs", json=job()).json()["links"]["events"]

    def listen() -> None:
        with httpx.stream("GET", api.url + queued, timeout=40) as stream:
            for line in stream.iter_lines():
                streamed.append(line)  # noqa: PERF402 - seen from outside as they come

    waiters.append(threading.Thread(target=listen))
    waiters[-1].start()
    wait_until(lambda: "event: queued" in streamed, what="an event")
    began = time.monotonic()
    assert api.process.stop() == 0
    took = time.monotonic() - began
    for waiter in waiters:
        waiter.join(5)
    assert took < 20
    assert streamed[0].startswith("retry: ")  # and the stream has ended, or `listen` had raised
    assert not waiters[-1].is_alive()
    assert [answer.status_code for answer in answers] == [202] * 20
    assert {answer.json()["state"] for answer in answers} == {"queued"}


def test_processes_that_share_a_port_are_replaced_without_a_refusal(stack: Stack) -> None:
    api = stack.api(
        "echo",
        LANEFLEET_API_WORKERS="2",
        LANEFLEET_MAX_REQUESTS="60",
        LANEFLEET_MAX_REQUESTS_JITTER="20",
        LANEFLEET_LOG_FORMAT="json",
    )
    with httpx.Client(base_url=api.url, timeout=20) as client:
        statuses = set()

        def two_drained() -> bool:
            statuses.update(retried(client).status_code for _ in range(50))
            return len(events(api.process, "api_process_draining")) >= 2

        wait_until(two_drained, 60, "two processes replaced")
    assert statuses == {202}
    started = events(api.process, "api_process_started")
    drained = events(api.process, "api_process_draining")
    assert len(started) >= 2 + len(drained) - 1
    assert api.process.stop() == 0
    assert all(not alive(event["pid"]) for event in started)


def retried(client: httpx.Client) -> httpx.Response:
    """A kept connection may end as its process does; a new one may not be refused."""
    try:
        return client.post("/v1/jobs", json=job())
    except (httpx.RemoteProtocolError, httpx.ReadError):
        return client.post("/v1/jobs", json=job())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_process_that_is_killed_is_started_again(stack: Stack) -> None:
    api = stack.api("echo", LANEFLEET_API_WORKERS="2", LANEFLEET_LOG_FORMAT="json")
    victim = events(api.process, "api_process_started")[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(events(api.process, "api_process_started")) == 3, what="a third process")
    assert httpx.get(f"{api.url}/health").status_code == 200
    assert api.process.stop() == 0


def test_a_port_that_is_taken_is_said_in_one_line(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = stack._start(
            "api", ["-m", "api"], "echo", {"LANEFLEET_PORT": port, "LANEFLEET_API_WORKERS": "2"}
        )
        assert process.popen.wait(30) == 2
    assert "cannot listen on 127.0.0.1" in process.output()


EARLY = """
import os, signal
import api.server.server as server
serve = server.serve
def told(*words):
    os.kill(os.getpid(), signal.SIGTERM)  # before the server listens to signals
    serve(*words)
server.serve = told
from api.__main__ import main
raise SystemExit(main())
"""


def test_a_process_that_is_told_to_end_while_it_starts_ends(stack: Stack) -> None:
    environment = {
        **os.environ,
        **stack.environment,
        "LANEFLEET_REDIS_URL": stack.redis_url,
        "LANEFLEET_PORT": str(free_port()),
    }
    command = [sys.executable, "-c", EARLY]
    ended = subprocess.run(command, env=environment, cwd=ROOT, timeout=120, check=False)
    assert ended.returncode == 0
