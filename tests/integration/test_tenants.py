"""Keys, scopes and tenants over a real API: who gets in, and what exists for whom."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from typer.testing import CliRunner

from api.app import create_app
from api.cli.fleet import free_port
from api.cli.keys import keys
from api.tenants.auth import SCOPES
from api.tenants.dependencies import _authorized
from common.jobs.job import Job
from common.redis.embedded_server import RedisServer
from common.redis.keys import LaneKeys
from common.settings import Settings
from tests.support.stack import ROOT, ApiProcess, Stack, wait_until

CACHE_SECONDS = 0.5
PUBLIC = {"/health", "/ready", "/docs", "/", "/openapi.json"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


class Town:
    """One API that asks for keys, a worker, and people of two tenants."""

    def __init__(self, stack: Stack, api: ApiProcess) -> None:
        self.stack = stack
        self.api = api
        self.cli = CliRunner(env={"LANEFLEET_REDIS_URL": stack.redis_url})
        self.people: dict[str, str] = {}

    def keys(self, *arguments: str) -> Any:
        done = self.cli.invoke(keys, [*arguments, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def key(self, tenant: str, scopes: str = "submit,read") -> str:
        """This tenant's key with these scopes."""
        name = f"{tenant} {scopes}"
        if name not in self.people:
            made = self.keys("create", name, "--tenant", tenant, "--scopes", scopes)
            self.people[name] = made["key"]
        return self.people[name]

    def call(self, method: str, path: str, key: str | None = None, **kwargs: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= kwargs.pop("headers", {})
        return httpx.request(method, self.api.url + path, headers=headers, timeout=30, **kwargs)

    def submit(self, key: str, wait: float | None = None, **fields: Any) -> httpx.Response:
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        job = {"model": "echo", "input": "x", **fields}
        return self.call("POST", "/v1/jobs", key, json=job, headers=headers)


@pytest.fixture(scope="module")
def town(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    stack = Stack(embedded_redis.url, tmp_path_factory.mktemp("town"))
    stack.redis.flushall()
    api = stack.api(
        LANEFLEET_API_KEYS_REQUIRED="true", LANEFLEET_KEY_CACHE_SECONDS=str(CACHE_SECONDS)
    )
    stack.worker("echo")
    yield Town(stack, api)
    stack.close()
    stack.redis.flushall()


def _operations() -> list[tuple[str, str, str]]:
    """Method, path and scope of every operation in the OpenAPI document."""
    document = create_app(Settings(), "redis://nowhere").openapi()
    found = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path in PUBLIC:
                assert "security" not in operation, f"{path} is public"
                continue
            asked = {scope for way in operation["security"] for [scope] in way.values()}
            assert len(asked) == 1, f"{method} {path} asks for one scope, both ways alike"
            assert {"401", "403"} <= set(operation["responses"]), f"{method} {path} says so"
            found.append((method.upper(), path, asked.pop()))
    return [*found, ("GET", "/metrics", "metrics")]


OPERATIONS = _operations()


def test_every_route_asks_who_it_is_unless_it_is_public() -> None:
    def asks(dependant: Any) -> bool:
        return dependant.call is _authorized or any(map(asks, dependant.dependencies))

    def all_of(routes: Any) -> Iterator[APIRoute]:
        for one in routes:
            if isinstance(one, APIRoute):
                yield one
            elif router := getattr(one, "original_router", None):
                yield from all_of(router.routes)

    routes = list(all_of(create_app(Settings(), "redis://x").routes))
    silent = {route.path for route in routes if not asks(route.dependant)}
    assert silent <= PUBLIC
    assert len(routes) > len(silent)


@pytest.mark.parametrize(("method", "path", "scope"), OPERATIONS)
def test_every_route_enforces_its_scope(town: Town, method: str, path: str, scope: str) -> None:
    url = path.replace("{lane}", "echo").replace("{name}", "echo").replace("{action}", "warm")
    url = re.sub(r"\{\w+\}", UNKNOWN, url)
    body: dict[str, Any] = {"json": {}} if method in ("POST", "PUT", "PATCH") else {}

    nobody = town.call(method, url, **body)
    assert nobody.status_code == 401
    assert nobody.headers["WWW-Authenticate"].startswith("Bearer")
    assert nobody.headers["content-type"].startswith("application/")
    assert "API key" in nobody.text

    others = ",".join(sorted(SCOPES - {scope, "admin"}))
    refused = town.call(method, url, town.key("matrix", others), **body)
    assert refused.status_code == 403
    assert f"`{scope}`" in refused.text
    assert f'scope="{scope}"' in refused.headers["WWW-Authenticate"]

    for granted in {scope, "admin"}:
        answer = town.call(method, url, town.key("matrix", granted), **body)
        assert answer.status_code not in (401, 403), answer.text


def test_health_and_readiness_need_no_key(town: Town) -> None:
    for path in ("/health", "/ready", "/openapi.json"):
        assert town.call("GET", path).status_code == 200


def test_both_headers_are_taken_and_bad_keys_are_refused(town: Town) -> None:
    key = town.key("a")
    assert town.call("GET", "/v1/models", headers={"X-API-Key": key}).status_code == 200
    assert town.call("GET", "/v1/models", headers={"Authorization": f"bearer {key}"}).is_success
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    for bad in (wrong, "lfk_nonsense", "sk-other", "lfk_" + "0" * 12 + "_" + "0" * 64):
        answer = town.call("GET", "/v1/models", bad)
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
        assert bad not in answer.text


def test_a_foreign_job_does_not_exist(town: Town) -> None:
    mine, other = town.key("a"), town.key("b")
    queued = town.submit(mine).json()
    done = town.submit(mine, wait=10).json()
    assert done["state"] == "succeeded"
    for job in (queued, done):
        own = town.call("GET", f"/v1/jobs/{job['id']}?wait=5", mine)
        assert own.json()["state"] == "succeeded"
        for method, path in (
            ("GET", "/v1/jobs/{}"),
            ("GET", "/v1/jobs/{}?wait=5"),
            ("POST", "/v1/jobs/{}/cancel"),
            ("GET", "/v1/dead/echo/{}"),
        ):
            foreign = town.call(method, path.format(job["id"]), other)
            unknown = town.call(method, path.format(UNKNOWN), other)
            assert (foreign.status_code, unknown.status_code) == (404, 404)
            assert _less_id(foreign, job["id"]) == _less_id(unknown, UNKNOWN)
    assert town.call("GET", f"/v1/jobs/{done['id']}", town.key("ops", "admin")).is_success


def test_a_key_that_may_not_read_gets_no_result_of_a_job_that_was_done(town: Town) -> None:
    done = town.submit(town.key("a"), wait=10).json()
    assert done["state"] == "succeeded"
    blind = town.keys("create", "blind", "--tenant", "a", "--scopes", "submit")["key"]
    assert town.call("GET", f"/v1/jobs/{done['id']}", blind).status_code == 403
    shown = town.call("POST", f"/v1/jobs/{done['id']}/cancel", blind).json()
    assert (shown["state"], "result" in shown) == ("succeeded", False)
    seen = town.call("POST", f"/v1/jobs/{done['id']}/cancel", town.key("a")).json()
    assert seen["result"] == done["result"]


def _less_id(answer: httpx.Response, job_id: str) -> dict[str, Any]:
    document = json.loads(answer.text.replace(job_id, "ID"))
    document.pop("request_id", None)
    return dict(document)


def test_a_reader_whose_leaving_cancels_must_be_allowed_to_cancel(town: Town) -> None:
    job = town.submit(town.key("a"), wait=20).json()
    path = f"/v1/jobs/{job['id']}/events?on_disconnect=cancel"
    refused = town.call("GET", path, town.key("a", "read"))
    assert (refused.status_code, refused.json()["scope"]) == (403, "submit")
    assert town.call("GET", path, town.key("a")).status_code == 200
    assert town.call("GET", path, town.key("b")).status_code == 404


def test_a_job_that_a_celery_client_sent_is_the_operators_only(town: Town) -> None:
    (job_id,) = town.stack.publish([Job("echo", "x")])
    assert town.call("GET", f"/v1/jobs/{job_id}", town.key("a")).status_code == 404
    assert town.call("GET", f"/v1/jobs/{job_id}", town.key("ops", "admin")).is_success


def test_dead_letters_are_their_tenants(town: Town) -> None:
    letters = LaneKeys.of("echo")
    with town.stack.redis as client:
        for n, tenant in enumerate(("a", "b", None)):
            about = {"id": f"dead-{n}", "lane": "echo", "band": 1, "reason": "r", "error": "e"}
            about |= {"attempts": 3, "worker": "w", "died_ms": n} | (
                {"tenant": tenant} if tenant else {}
            )
            client.hset(letters.letters, f"dead-{n}", json.dumps(about) + "\n{}")
            client.zadd(letters.dead, {f"dead-{n}": n})

    def listed(key: str) -> list[str]:
        return [one["id"] for one in town.call("GET", "/v1/dead/echo", key).json()]

    def dropped(key: str, ids: list[str] | None) -> int:
        return int(town.call("POST", "/v1/dead/echo/purge", key, json={"ids": ids}).json()["jobs"])

    mine, operator = town.key("a"), town.key("ops", "admin")
    assert listed(mine) == ["dead-0"]
    assert listed(operator) == ["dead-2", "dead-1", "dead-0"]
    assert town.call("GET", "/v1/dead/echo/dead-1", mine).status_code == 404
    assert dropped(mine, ["dead-1", "dead-2"]) == 0
    assert dropped(mine, None) == 1
    assert listed(operator) == ["dead-2", "dead-1"]
    assert dropped(operator, None) == 2


def test_a_rate_is_told_and_kept(town: Town) -> None:
    key = town.key("rated")
    town.keys("limit", "rated", "--jobs-per-second", "0.01", "--burst", "3")
    taken = [town.submit(key) for _ in range(3)]
    assert [one.status_code for one in taken] == [202, 202, 202]
    assert taken[0].headers["RateLimit-Policy"] == '"jobs";q=3;w=300'
    assert [one.headers["RateLimit"].split(";")[1] for one in taken] == ["r=2", "r=1", "r=0"]
    refused = town.submit(key)
    assert (refused.status_code, refused.json()["type"][-12:]) == (429, "rate-limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 100
    assert refused.headers["RateLimit"].startswith('"jobs";r=0;t=')
    lines = "\n".join(json.dumps({"model": "echo", "input": n}) for n in range(3))
    bulk = town.call("POST", "/v1/jobs/bulk", key, content=lines)
    errors = [json.loads(line)["error"]["status"] for line in bulk.text.splitlines()]
    assert errors == [429, 429, 429]
    metrics = town.call("GET", "/metrics", town.key("ops", "admin")).text
    assert 'lanefleet_api_refused_total{lane="echo",reason="rate_limited"} 4.0' in metrics
    assert "RateLimit" not in town.submit(town.key("a")).headers


def test_a_quota_is_free_again_once_jobs_are_done(town: Town) -> None:
    key = town.key("small")
    town.keys("limit", "small", "--max-in-flight", "2")
    slow = [town.submit(key, params={"sleep_ms": 2_000}).json()["id"] for _ in range(2)]
    refused = town.submit(key)
    assert (refused.status_code, refused.json()["type"][-14:]) == (429, "quota-exceeded")
    assert "Retry-After" in refused.headers
    for job_id in slow:
        town.call("GET", f"/v1/jobs/{job_id}?wait=10", key)
    assert town.submit(key).status_code == 202


def test_a_key_lives_and_dies(town: Town) -> None:
    made = town.keys("create", "short", "--tenant", "a", "--scopes", "read")
    opens = lambda text: town.call("GET", "/v1/models", text).is_success  # noqa: E731
    assert opens(made["key"])
    second = town.keys("rotate", made["id"], "--grace", "1h")
    assert opens(made["key"])
    assert opens(second["key"])
    done = town.cli.invoke(keys, ["revoke", made["id"]])
    assert done.exit_code == 0
    wait_until(lambda: not opens(made["key"]), CACHE_SECONDS + 2, "the revoked key to die")
    assert opens(second["key"])
    listed = {one["id"]: one for one in town.keys("list")}
    assert listed[made["id"]]["state"] == "revoked"
    assert listed[second["id"]]["state"] == "valid"
    assert listed[second["id"]]["last_used_at"] is not None
    assert made["key"].rpartition("_")[2] not in json.dumps(listed)
    brief = town.keys("create", "brief", "--tenant", "a", "--scopes", "read", "--expires", "1s")
    wait_until(lambda: not opens(brief["key"]), 20, "the key to expire, cached or not")


def test_no_key_was_ever_logged(town: Town) -> None:
    town.call("GET", f"/v1/models?key={town.key('a')}")
    logged = "".join(process.output() for process in town.stack.processes)
    assert not re.search(r"lfk_[0-9a-f]{12}_[0-9a-f]{64}", logged)


def test_a_worker_batches_a_newcomer_before_what_others_queued(town: Town) -> None:
    """Order, not time: while one tenant has thousands waiting, another's job is soon done."""
    jobs = [Job("echo", n, {"sleep_ms": 200}, tenant="flood") for n in range(6000)]
    town.stack.publish(jobs)
    answer = town.submit(town.key("light"), wait=20)
    assert answer.json()["state"] == "succeeded"
    counts = town.stack.states([job.id for job in jobs])
    assert counts.get("queued", 0) > 2000, "it was served while theirs still waited"
    town.stack.redis.flushdb()


def test_an_open_api_closes_with_the_first_key(stack: Stack) -> None:
    api = stack.api(LANEFLEET_KEY_CACHE_SECONDS="0.2")
    town = Town(stack, api)
    assert town.call("GET", "/v1/lanes").is_success, "nobody needs a key while there is none"
    assert town.call("GET", "/v1/lanes", "sk-of-another-kind").is_success
    key = town.key("ops", "admin")
    closed = lambda: town.call("GET", "/v1/lanes").status_code == 401  # noqa: E731
    wait_until(closed, 20, "the API to ask for a key")
    assert town.call("GET", "/v1/lanes", key).is_success


def test_an_api_that_others_can_reach_does_not_start_without_a_key(stack: Stack) -> None:
    environment = {
        **os.environ,
        "LANEFLEET_REDIS_URL": stack.redis_url,
        "LANEFLEET_HOST": "0.0.0.0",
        "LANEFLEET_PORT": str(free_port()),
    }
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "api"], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "lanefleet keys create" in done.stderr
    assert "LANEFLEET_API_KEYS_REQUIRED=false" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert time.monotonic() - began < 60


def test_the_docs_name_every_scope() -> None:
    text = Path(ROOT / "docs" / "security.md").read_text()
    assert all(f"| `{scope}` |" in text for scope in SCOPES)
