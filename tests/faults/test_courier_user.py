"""API, worker and courier as the users of the shipped ACL file, with deliveries and batches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from common.redis.keys import EVENTS
from tests.faults.test_redis_trouble import Server
from tests.process.deploy.test_acl_file import SHIPPED
from tests.support.receiver import HOST, Receiver, listening
from tests.support.stack import Stack, redis_binary, wait_until


class Guarded(Server):
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.as_user("admin"), socket_timeout=2)

    def as_user(self, role: str) -> str:
        return f"redis://{role}:change-me-{role}@127.0.0.1:{self.port}/0"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Guarded]:
    options = ["--aclfile", str(SHIPPED)]
    made = Guarded(tmp_path / "redis", options, binary=redis_binary("embedded")[0])
    made.start()
    yield made
    made.kill()


@pytest.mark.slow
def test_each_role_does_its_work_as_its_own_user(server: Guarded, tmp_path: Path) -> None:
    environment = {
        "LANEFLEET_WEBHOOK_ALLOW": HOST,
        "LANEFLEET_WEBHOOK_SCHEDULE_SECONDS": "0,0.1,0.1",
        "LANEFLEET_FILES_URL": (tmp_path / "files").as_uri(),
        "LANEFLEET_LEASE_SECONDS": "2",
        "LANEFLEET_BLOB_SWEEP_SECONDS": "1",
    }
    stack = Stack(server.as_user("admin"), tmp_path, environment)

    def start(role: str) -> Any:
        found = {"LANEFLEET_REDIS_URL": server.as_user(role)}
        return getattr(stack, role)("echo", **found)

    try:
        api, worker, courier = start("api"), start("worker"), start("courier")
        with listening(Receiver()) as receiver, httpx.Client(base_url=api.url) as http:
            work(http, receiver)
            courier.kill()
            again = start("courier")
            batches(http, receiver)
            wait_until(lambda: not stack.redis.xlen(EVENTS), 20, "the outbox")
        for process in (api.process, worker, courier, again):
            said = process.output()
            lines = [one for one in said.splitlines() if "NOPERM" in one or "permission" in one]
            assert lines == []
            assert "redis_command_refused" not in said
    finally:
        stack.close()


def work(http: httpx.Client, receiver: Receiver) -> None:
    """Deliveries that succeed, that fail until they are dead, and that are replayed."""

    def call(path: str, body: Any) -> Any:
        answer = http.post(path, json=body, timeout=30)
        assert answer.is_success, answer.text
        return answer.json()

    made = call("/v1/webhooks", {"url": receiver.url})
    receiver.answer = lambda _one: (500, {})
    job = call("/v1/jobs", {"model": "echo", "input": 1, "webhook": made["id"]})["id"]
    path = f"/v1/webhooks/deliveries?state=dead&subject={job}"
    wait_until(lambda: http.get(path).json()["deliveries"], 30, "a dead delivery")
    receiver.answer = lambda _one: (200, {})
    call("/v1/webhooks/deliveries/replay", {"subject": job})
    call(f"/v1/webhooks/{made['id']}/rotate", {})
    call(f"/v1/webhooks/{made['id']}/ping", None)
    wait_until(lambda: "webhook.ping" in types(receiver), 30, "a ping")
    receiver.answer = lambda _one: (410, {})
    other = call("/v1/webhooks", {"url": receiver.url, "events": []})["id"]
    call("/v1/jobs", {"model": "echo", "input": 1, "webhook": other})
    wait_until(lambda: not http.get(f"/v1/webhooks/{other}").json()["enabled"], 30, "its end")
    receiver.answer = lambda _one: (200, {})
    assert http.delete(f"/v1/webhooks/{other}").is_success
    # It was told of the same job.
    wait_until(lambda: not http.get(f"/v1/webhooks/{made['id']}").json()["enabled"], 30, "its end")
    assert http.patch(f"/v1/webhooks/{made['id']}", json={"enabled": True}).json()["enabled"]


def batches(http: httpx.Client, receiver: Receiver) -> None:
    """One that is completed, one that is canceled, one that is no batch."""

    def lines(count: int, **params: Any) -> bytes:
        body = {"model": "echo", "input": 1, "params": params}
        return b"".join(
            json.dumps(
                {"custom_id": str(n), "method": "POST", "url": "/v1/jobs", "body": body}
            ).encode()
            + b"\n"
            for n in range(count)
        )

    def create(content: bytes) -> str:
        file = http.post("/v1/files", files={"file": content}, data={"purpose": "batch"}).json()
        asked = {
            "input_file_id": file["id"],
            "endpoint": "/v1/jobs",
            "completion_window": "1h",
        }
        return str(http.post("/v1/batches", json=asked).json()["id"])

    made = {
        "completed": create(lines(300)),
        "cancelled": create(lines(3_000, sleep_ms=20)),
        "failed": create(b"no batch\n"),
    }
    assert http.post(f"/v1/batches/{made['cancelled']}/cancel").is_success
    for status, one in made.items():
        found = f"/v1/batches/{one}"
        wait_until(lambda f=found, s=status: http.get(f).json()["status"] == s, 60, status)  # type: ignore[misc]
        wait_until(lambda s=status: f"batch.{s}" in types(receiver), 30, f"the event of {status}")  # type: ignore[misc]


def types(receiver: Receiver) -> set[str]:
    return {str(json.loads(one.body)["type"]) for one in list(receiver.received)}
