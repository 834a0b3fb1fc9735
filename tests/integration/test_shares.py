"""What a process has for all tenants: one takes its share, and nobody keeps what he left."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from api.tenants.api_keys import Keyring
from common.redis.embedded_server import RedisServer
from tests.support.stack import ApiProcess, Stack, wait_until

MOST = 8


@pytest.fixture(scope="module")
def town(
    embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stack, ApiProcess, dict[str, str]]]:
    """An API without a worker, so that jobs wait; and a key of two tenants each."""
    stack = Stack(embedded_redis.url, tmp_path_factory.mktemp("shares"))
    stack.redis.flushall()
    ring = Keyring(stack.redis)
    keys = {
        name: ring.create(name, name, frozenset({"submit", "read"}))[1] for name in ("acme", "beta")
    }
    api = stack.api(
        "echo",
        LANEFLEET_MAX_CONCURRENT_REQUESTS=str(MOST),
        LANEFLEET_KEY_CACHE_SECONDS="0.2",
        LANEFLEET_EVENT_HEARTBEAT_SECONDS="0.2",
    )
    api.headers["X-API-Key"] = ring.create("operator", "operator", frozenset({"metrics"}))[1]
    yield stack, api, keys
    stack.close()


def submit(api: ApiProcess, key: str) -> str:
    answer = httpx.post(
        f"{api.url}/v1/jobs", json={"model": "echo", "input": 1}, headers={"X-API-Key": key}
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def hold(api: ApiProcess, key: str, path: str) -> socket.socket:
    """A GET that is held, of a client that does not read."""
    host, port = api.url.removeprefix("http://").split(":")
    one = socket.create_connection((host, int(port)))
    one.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {key}\r\n\r\n".encode())
    return one


def under_way(api: ApiProcess) -> int:
    """Requests, with the one that asks."""
    text = httpx.get(f"{api.url}/metrics", headers=api.headers).text
    return int(float(text.partition("\nlanefleet_api_active_requests ")[2].partition("\n")[0]))


def test_held_requests_of_one_tenant_leave_room_and_end_with_their_clients(
    town: tuple[Stack, ApiProcess, dict[str, str]],
) -> None:
    _, api, keys = town
    mine, theirs = submit(api, keys["acme"]), submit(api, keys["beta"])
    headers = {"X-API-Key": keys["acme"]}
    held = [hold(api, keys["acme"], f"/v1/jobs/{mine}?wait=60") for _ in range(MOST // 2)]

    def full() -> bool:
        answer = httpx.get(f"{api.url}/v1/jobs/{mine}?wait=0.01", headers=headers)
        return answer.status_code == 429 and answer.json()["type"].endswith("too-many-waiting")

    # A look would take the place of one that has not come yet.
    wait_until(lambda: under_way(api) > len(held), 20, "the held requests")
    assert full()
    assert httpx.get(f"{api.url}/v1/jobs/{mine}", headers=headers).status_code == 200
    other = httpx.get(f"{api.url}/v1/jobs/{theirs}?wait=0.1", headers={"X-API-Key": keys["beta"]})
    assert other.status_code == 200, "others have room"
    for one in held:
        one.close()
    wait_until(lambda: not full(), 20, "the share to be free again")


def test_a_revoked_key_ends_what_it_holds(
    town: tuple[Stack, ApiProcess, dict[str, str]],
) -> None:
    stack, api, _ = town
    ring = Keyring(stack.redis)
    record, key = ring.create("gone", "gone", frozenset({"submit", "read"}))
    headers, job = {"X-API-Key": key}, submit(api, key)
    with (
        ThreadPoolExecutor(3) as pool,
        httpx.stream("GET", f"{api.url}/v1/jobs/{job}/events", headers=headers) as stream,
    ):
        events = stream.iter_text()
        assert "queued" in next(events) + next(events)
        held = pool.submit(
            httpx.get, f"{api.url}/v1/jobs/{job}?wait=2", headers=headers, timeout=20
        )
        ring.revoke(record.id)
        assert held.result().status_code == 401
        assert "running" not in "".join(events), "the stream ends"


def test_a_bulk_of_a_revoked_key_queues_no_more(
    town: tuple[Stack, ApiProcess, dict[str, str]],
) -> None:
    stack, api, _ = town
    ring = Keyring(stack.redis)
    record, key = ring.create("late", "late", frozenset({"submit"}))
    line = b'{"model":"echo","input":1}\n'

    def lines() -> Iterator[bytes]:
        yield line * 500
        wait_until(lambda: stack.redis.hget("lf:tenants:in_flight", "late") == b"500", 20)
        ring.revoke(record.id)
        wait_until(
            lambda: httpx.get(f"{api.url}/v1/jobs", headers={"X-API-Key": key}).status_code == 401
        )
        for _ in range(4):
            yield line * 500

    answer = httpx.post(
        f"{api.url}/v1/jobs/bulk", content=lines(), headers={"X-API-Key": key}, timeout=30
    )
    assert "unauthorized" in answer.text.splitlines()[-1]
    assert stack.redis.hget("lf:tenants:in_flight", "late") == b"500"


def test_once_closed_it_stays_closed(town: tuple[Stack, ApiProcess, dict[str, str]]) -> None:
    stack, api, _ = town
    assert httpx.get(f"{api.url}/v1/models").status_code == 401
    stack.redis.flushall()
    again = stack.api("echo", LANEFLEET_KEY_CACHE_SECONDS="0.2")
    for one in (api, again):
        one.headers = {}
        wait_until(lambda one=one: httpx.get(f"{one.url}/ready").status_code in (200, 503))
        assert httpx.get(f"{one.url}/v1/models").status_code == 401
