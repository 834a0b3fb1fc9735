"""Waiting for a result, while the connection that the news comes by is lost."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.support import Stack


def test_a_result_that_comes_while_the_subscription_is_lost_is_answered_at_once(
    stack: Stack,
) -> None:
    stack.worker("echo")
    api = stack.api("echo")
    began = time.monotonic()
    job = api.client.submit("echo", "x", params={"sleep_ms": 1_000})
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(
            httpx.get, f"{api.url}/v1/jobs/{job['id']}", params={"wait": 20}, timeout=30
        )
        time.sleep(max(0.0, began + 0.8 - time.monotonic()))
        stack.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert answer.result().json()["state"] == "succeeded"
    assert time.monotonic() - began < 4
