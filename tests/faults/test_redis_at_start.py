"""A fleet that starts without its Redis: who runs it reads one line, and clients the cause."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.test_redis_trouble import Server
from tests.support.stack import Stack, wait_until

LOOK_SECONDS = 8.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "redis")
    yield made
    made.kill()


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ("password", "authentication"),
        pytest.param("port", "unreachable", marks=pytest.mark.slow),
        pytest.param("user", "permission", marks=pytest.mark.slow),
    ],
)
def test_it_says_why_once_and_serves_when_redis_does(
    wrong: str, cause: str, server: Server, tmp_path: Path
) -> None:
    if wrong != "port":
        server.start()
        server.client().execute_command(
            "ACL", "SETUSER", "u", "on", ">other", "~*", "&*", "+@all", "-@scripting"
        )
    login = "u:hidden" if wrong != "user" else "u:other"
    stack = Stack(f"redis://{login}@127.0.0.1:{server.port}/0", tmp_path)
    try:
        # Without scripts kombu itself restarts for ever, and says so in words of its own.
        url = stack.redis_url if wrong != "user" else f"redis://127.0.0.1:{server.port}/0"
        worker = stack._start("worker", ["-m", "worker"], "echo", {"LANEFLEET_REDIS_URL": url})
        api = stack.api("echo", LANEFLEET_API_KEYS_REQUIRED="false")
        time.sleep(LOOK_SECONDS)  # how long the lines are counted
        told = problem(api.url)
        assert told["status"] == 503
        assert told["cause"] == cause, told
        for process in (worker, api.process) if wrong != "user" else (api.process,):
            warned = [one for one in process.output().splitlines() if _is_bad(one)]
            assert 1 <= len(warned) <= 3, warned  # a slow start may see the second
            assert f"cause={cause}" in warned[0]
            assert "hidden" not in process.output()
        if wrong == "port":
            server.start()
        rules = ("+@all", ">hidden", ">other", "on", "~*", "&*")
        server.client().execute_command("ACL", "SETUSER", "u", *rules)
        wait_until(lambda: _succeeds(api.url), 60, "a job to succeed")
    finally:
        stack.close()


def problem(url: str) -> dict[str, Any]:
    answer = httpx.post(f"{url}/v1/jobs", json={"model": "echo", "input": 1}, timeout=20)
    found: dict[str, Any] = answer.json()
    assert "hidden" not in answer.text
    return found


def _succeeds(url: str) -> bool:
    answer = httpx.post(
        f"{url}/v1/jobs",
        json={"model": "echo", "input": 1},
        headers={"Prefer": "wait=5"},
        timeout=20,
    )
    return answer.status_code == 200 and answer.json()["state"] == "succeeded"


def _is_bad(line: str) -> bool:
    return any(word in line for word in ("[warning", "[error", "[critical", "Traceback", "Warning"))
