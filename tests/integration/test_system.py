"""The fleet in one view, and what could not be sent, by HTTP, client and command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from celery import signature
from typer.testing import CliRunner

from api.cli.keys import keys
from api.cli.main import app
from api.client import Client
from common.jobs.job import Job
from common.redis.embedded_server import RedisServer
from common.redis.keys import OUTBOX, OUTBOX_FAILED
from tests.support.stack import ApiProcess, Stack, wait_until


class Place:
    """An API that asks for keys, and a worker that has published a result."""

    def __init__(self, stack: Stack, api: ApiProcess) -> None:
        self.stack, self.api = stack, api
        cli = CliRunner(env={"LANEFLEET_REDIS_URL": stack.redis_url})
        self.keys = {
            scope: json.loads(cli.invoke(keys, ["create", scope, *scoped, "--json"]).stdout)["key"]
            for scope in ("metrics", "admin", "read")
            for scoped in [("--tenant", "acme", "--scopes", scope)]
        }

    def get(self, path: str, scope: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys[scope]}"} if scope else {}
        return httpx.get(f"{self.api.url}{path}", headers=headers, timeout=30)

    def command(self, *words: str, scope: str = "admin") -> Any:
        cli = CliRunner(env={"LANEFLEET_API_KEY": self.keys[scope]})
        done = cli.invoke(app, [*words, "--url", self.api.url, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def client(self) -> Client:
        return Client(self.api.url, api_key=self.keys["admin"])


@pytest.fixture(scope="module")
def place(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    stack = Stack(embedded_redis.url, tmp_path_factory.mktemp("system"))
    stack.redis.flushall()
    ids = stack.publish([Job("echo", "first")])
    api = stack.api(LANEFLEET_API_KEYS_REQUIRED="true", LANEFLEET_KEY_CACHE_SECONDS="0.5")
    stack.worker("echo")
    wait_until(lambda: stack.states(ids) == {"succeeded": 1}, 30, "a result")
    yield Place(stack, api)
    stack.close()
    stack.redis.flushall()


def test_the_view_sums_what_the_processes_say(place: Place) -> None:
    def known() -> dict[str, Any] | None:
        view: dict[str, Any] = place.get("/v1/system", "metrics").json()
        return view if view["processes"][-1]["cold_start_seconds"] else None

    view = wait_until(known, 30, "the worker's start to be known")
    api, worker = view["processes"]
    assert (view["status"], view["model_loaded"], view["gpu_available"]) == ("ok", True, False)
    assert view["memory_usage"] == {"gpu_allocated_gb": 0, "gpu_reserved_gb": 0}
    assert view["performance"]["memory_mb"] == pytest.approx(
        api["memory_mb"] + worker["memory_mb"], abs=0.2
    )
    assert api["memory_mb"] > 20
    assert worker["memory_mb"] > 20
    assert (worker["device"], worker["models"]) == ("cpu", ["echo"])
    assert 0 < worker["cold_start_seconds"] < 60
    found = view["performance"]["optimizations"]
    assert {"uvloop", "httptools", "orjson", "hiredis", "pillow-simd", "threads"} <= set(found)
    assert all(found[name] for name in ("uvloop", "httptools", "orjson", "hiredis"))
    assert found["threads"] == {"decode": 2}
    assert {"python", "lanefleet", "fastapi", "celery", "redis"} <= set(view["versions"])
    assert "torch" not in view["versions"], "echo does not import it"
    assert view["redis"]["reachable"]
    assert view["redis"]["version"]
    assert view["redis"]["used_memory_mb"] > 0
    assert view["redis"]["maxmemory_policy"] == "noeviction"
    assert view["outbox"] == {"waiting": 0, "failed": 0}


def test_health_is_one_word_and_the_view_where_full_is_asked_for(place: Place) -> None:
    assert place.get("/health").json() == {"status": "ok"}
    assert place.get("/health?full=false").json() == {"status": "ok"}
    full, view = place.get("/health?full", "metrics"), place.get("/v1/system", "metrics")
    assert full.json().keys() == view.json().keys()
    assert full.json()["versions"] == view.json()["versions"]
    assert place.get("/health?full").status_code == 401
    for path in ("/health?full", "/v1/system"):
        assert place.get(path, "read").status_code == 403


def test_the_client_and_the_commands_show_the_same(place: Place) -> None:
    view = place.get("/v1/system", "metrics").json()
    with place.client() as client:
        assert client.get_system()["versions"] == view["versions"]
    assert place.command("system", scope="metrics")["versions"] == view["versions"]
    report = place.command("doctor", scope="metrics")
    assert report["system"]["performance"]["optimizations"] == view["performance"]["optimizations"]
    cli = CliRunner(env={"LANEFLEET_API_KEY": place.keys["metrics"], "COLUMNS": "200"})
    shown = cli.invoke(app, ["system", "--url", place.api.url])
    assert "status: ok" in shown.stdout
    assert "noeviction" in shown.stdout


def given_up(place: Place, job: str, then: str) -> str:
    """An entry as a worker sets it aside: its job would have led to this task."""
    call = signature(f"somewhere.{then}", queue=then, app=None)
    fields = {
        "id": job,
        "meta": json.dumps({"status": "SUCCESS", "result": 1, "task_id": job}),
        "next": json.dumps({"callbacks": [dict(call)]}),
        "error": "no such queue",
    }
    return str(place.stack.redis.xadd(OUTBOX_FAILED, fields).decode())  # type: ignore[arg-type,union-attr]


def test_entries_that_were_given_up_are_listed_retried_and_dropped(place: Place) -> None:
    redis = place.stack.redis
    first, second, third = (given_up(place, f"job-{n}", f"queue{n}") for n in range(3))
    found = place.get("/v1/outbox?limit=2", "admin").json()
    assert (found["waiting"], found["failed"]) == (0, 3)
    assert [one["id"] for one in found["entries"]] == [third, second]
    about = found["entries"][0]
    assert (about["job_id"], about["error"]) == ("job-2", "no such queue")
    assert about["leads_to"] == ["somewhere.queue2"]
    assert place.get("/v1/system", "metrics").json()["outbox"]["failed"] == 3
    assert place.command("outbox", "list") == place.get("/v1/outbox", "admin").json()

    assert place.command("outbox", "retry", first) == {"entries": 1}
    wait_until(lambda: redis.llen("queue0"), 30, "its successor to be sent")
    wait_until(lambda: not redis.xlen(OUTBOX), 30, "the outbox to be empty")
    with place.client() as client:
        assert client.drop_outbox([second, "9-9"]) == 1
        assert client.retry_outbox() == 1
        empty = {"waiting": 0, "failed": 0, "entries": []}
        wait_until(lambda: client.list_outbox() == empty, 30, "nothing to be left")
    wait_until(lambda: redis.llen("queue2"), 30, "its successor to be sent")
    assert not redis.exists("queue1")
    assert place.command("outbox", "drop", "--yes") == {"entries": 0}


def test_only_operators_see_the_outbox_and_ids_are_checked(place: Place) -> None:
    assert place.get("/v1/outbox", "metrics").status_code == 403
    admin = {"Authorization": f"Bearer {place.keys['admin']}"}
    for ids in (["x"], ["1-1", "*"], "1-1"):
        url = f"{place.api.url}/v1/outbox/drop"
        assert httpx.post(url, json={"ids": ids}, headers=admin).status_code == 422


@pytest.mark.slow
def test_the_view_is_there_without_redis_and_sums_several_api_processes(own_stack: Stack) -> None:
    api = own_stack.api(LANEFLEET_API_WORKERS="2", LANEFLEET_API_KEYS_REQUIRED="false")
    view = httpx.get(f"{api.url}/v1/system", timeout=30).json()
    roles = [one["role"] for one in view["processes"]]
    assert roles == ["api"] * 3, "the parent and its two children"
    assert view["performance"]["memory_mb"] == pytest.approx(
        sum(one["memory_mb"] for one in view["processes"]), abs=0.2
    )
    own_stack.redis.shutdown(nosave=True)

    def status() -> str:
        return str(httpx.get(f"{api.url}/health?full", timeout=30).json()["status"])

    wait_until(lambda: status() == "unavailable", 30, "it to be noticed")
    assert httpx.get(f"{api.url}/health", timeout=30).json() == {"status": "ok"}
    own_stack.processes[-1].stop()
