"""Waiting for a result, while the connection that the news comes by or all of Redis is lost."""

from __future__ import annotations

import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import redis

from api.cli.fleet import free_port
from tests.support.stack import Stack, redis_binary, wait_until


def test_a_result_that_comes_while_the_subscription_is_lost_is_answered_at_once(
    own_stack: Stack,
) -> None:
    own_stack.worker("echo")
    api = own_stack.api("echo")
    job = api.client.submit("echo", "x", params={"sleep_ms": 1_000})
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(
            httpx.get, f"{api.url}/v1/jobs/{job['id']}", params={"wait": 20}, timeout=30
        )
        wait_until(lambda: own_stack.redis.pubsub_channels("celery-task-meta-*"), 20, "the wait")
        own_stack.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        killed = time.monotonic()
        assert answer.result().json()["state"] == "succeeded"
    assert time.monotonic() - killed < 15, "before its own twenty seconds are over"


def test_a_quick_restart_of_redis_is_not_noticed_by_who_waits(tmp_path: Path) -> None:
    port = free_port()
    command = [redis_binary("embedded")[0], "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--dir", str(tmp_path), "--save", "", "--logfile", "redis.log"]
    command += ["--appendonly", "yes", "--appendfsync", "always"]
    stack = Stack(f"redis://127.0.0.1:{port}/0", tmp_path)

    def start() -> subprocess.Popen[bytes]:
        server = subprocess.Popen(command)
        wait_until(answers, 20, "the server")
        return server

    def answers() -> bool:
        try:
            return bool(redis.Redis(port=port, socket_timeout=2).ping())
        except redis.RedisError:
            return False

    server = start()
    try:
        stack.worker("echo")
        api = stack.api("echo", LANEFLEET_REDIS_OUTAGE_SECONDS="30")
        began = time.monotonic()
        job = api.client.submit("echo", "x", params={"sleep_ms": 5_000})
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(
                httpx.get,
                f"{api.url}/v1/jobs/{job['id']}",
                params={"wait": 50},
                timeout=70,
            )
            wait_until(lambda: stack.redis.pubsub_channels("celery-task-meta-*"), 20, "the wait")
            server.send_signal(signal.SIGKILL)
            server.wait()
            time.sleep(2.5)  # how long it is away
            server = start()
            response = answer.result()
        assert response.status_code == 200, response.text
        assert response.json()["state"] == "succeeded"
        assert time.monotonic() - began < 48
    finally:
        stack.close()
        server.kill()
        server.wait()
