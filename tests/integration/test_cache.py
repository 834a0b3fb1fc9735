"""The cache and single-flight over HTTP: one execution, many results, and nobody else's."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
import yaml
from celery import Celery

from api.cli.fleet import free_port
from api.client import Client
from api.tenants import auth
from api.tenants.auth import SCOPES, Principal
from common.redis.embedded_server import RedisServer
from tests.integration.test_fast_path import serving
from tests.support.stack import ROOT, ApiProcess, Stack, wait_until

RECORDER = "tests.support.handlers:Recorder"
PACED = "tests.support.handlers:Paced"


class Fleet:
    """One worker and one API for all tests here; each test has inputs of its own."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.ledger = stack.folder / "ledger"
        self.ledger.touch()
        recorder = {
            "handler": RECORDER,
            "max_batch": 64,
            "options": {"ledger": str(self.ledger)},
        }
        paced = {"handler": PACED, "cache_seconds": 60, "options": {"batch_ms": 1}}
        catalog = {
            "models": {
                "kept": {**recorder, "cache_seconds": 60},
                "briefly": {**recorder, "cache_seconds": 1},
                "never": recorder,
                "m@1": paced,
                "m@2": paced,
            },
            "aliases": {"m": "m@1"},
        }
        (stack.folder / "models.yaml").write_text(yaml.safe_dump(catalog))
        stack.environment |= {
            "LANEFLEET_CATALOG": str(stack.folder / "models.yaml"),
            "LANEFLEET_STATE_DIR": str(stack.folder / "state"),
        }
        self.worker = stack.worker("")
        self.await_fingerprints("kept", "briefly", "m", "m@1", "m@2")
        # A thousand requests are sent by one loop, some of them late on a busy machine.
        self.api: ApiProcess = stack.api("", LANEFLEET_HEADER_TIMEOUT_SECONDS="300")
        self.client: Client = self.api.client

    def await_fingerprints(self, *lanes: str) -> dict[bytes, bytes]:
        def known() -> Any:
            found = self.stack.redis.hgetall("lf:fingerprints")
            return found if {lane.encode() for lane in lanes} <= found.keys() else None  # type: ignore[union-attr]

        return wait_until(known, 20, "the fingerprints")

    def runs(self, value: str) -> int:
        lines = self.ledger.read_text().splitlines()
        return Counter(line.split(" ")[0] for line in lines)[value]

    def post(self, headers: dict[str, str] | None = None, **job: Any) -> httpx.Response:
        return httpx.post(
            f"{self.api.url}/v1/jobs", json=job, headers={"Prefer": "wait=20", **(headers or {})}
        )

    def bulk(self, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Submit in one call; what was answered, line by line."""
        lines = "\n".join(map(json.dumps, jobs))
        answer = httpx.post(f"{self.api.url}/v1/jobs/bulk", content=lines)
        found = [json.loads(line) for line in answer.text.splitlines()]
        return sorted(found, key=lambda one: one["line"])

    def await_kept(self, value: str, model: str = "kept", **fields: Any) -> dict[str, Any]:
        """Until a worker has written the result, a moment after it was published."""

        def hit() -> dict[str, Any] | None:
            job = self.client.submit(model, value, wait=20, **fields)
            return job if job.get("cached") else None

        return wait_until(hit, 20, "a hit")


def redis_seconds(redis: Any) -> float:
    """What Redis says the time is, in Unix seconds."""
    seconds, microseconds = redis.time()
    return float(seconds + microseconds / 1e6)


@pytest.fixture(scope="module")
def fleet(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    stack = Stack(embedded_redis.url, tmp_path_factory.mktemp("cache"))
    stack.redis.flushall()
    try:
        yield Fleet(stack)
    finally:
        stack.close()


async def _one(url: str, request: bytes) -> dict[str, Any]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
    body = await reader.readexactly(length)
    writer.close()
    return {"status": int(head[9:12]), **orjson.loads(body)}


def submit_at_once(url: str, count: int, **job: Any) -> list[dict[str, Any]]:
    """Each over a connection of its own, all at the same time."""
    body = orjson.dumps(job)
    request = (
        b"POST /v1/jobs HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\n"
        b"Prefer: wait=30\r\nContent-Length: %d\r\n\r\n%b"
        % (urlsplit(url).netloc.encode(), len(body), body)
    )

    async def run() -> list[dict[str, Any]]:
        return await asyncio.gather(*(_one(url, request) for _ in range(count)))

    return asyncio.run(run())


# -- single-flight --------------------------------------------------------


@pytest.mark.parametrize("sleep_ms", [0, 400])
def test_a_thousand_identical_submits_at_once_run_once(fleet: Fleet, sleep_ms: int) -> None:
    value = f"thousand-{sleep_ms}"
    began = time.monotonic()
    answers = submit_at_once(
        fleet.api.url, 1000, model="kept", input=value, params={"sleep_ms": sleep_ms}
    )
    seconds = time.monotonic() - began
    states = Counter((one["status"], one.get("state")) for one in answers)
    assert states == {(200, "succeeded"): 1000}
    assert {one["result"] for one in answers} == {value}
    assert len({one["id"] for one in answers}) == 1000
    how = Counter(
        "cached" if a.get("cached") else "shared" if a.get("shared") else "ran" for a in answers
    )
    print(f"1,000 submits in {seconds:.2f} s: {dict(how)}, executions: {fleet.runs(value)}")
    assert fleet.runs(value) == 1
    assert how["ran"] == 1
    one = random.Random(1).choice(answers)
    assert fleet.client.get(one["id"])["result"] == value
    assert not fleet.stack.redis.exists("lf:lane:kept:followers")


def test_a_follower_can_be_cancelled_and_its_leader_too(fleet: Fleet) -> None:
    busy = fleet.client.submit("never", "busy", params={"sleep_ms": 1000})
    wait_until(lambda: fleet.runs("busy"), 20, "the device to be busy")
    jobs = [fleet.client.submit("kept", "cancel-me") for _ in range(4)]
    leader, second, third, fourth = (job["id"] for job in jobs)
    assert fleet.client.cancel(third)["state"] == "canceled"
    assert fleet.client.cancel(leader)["state"] == "canceled"
    assert fleet.client.get(second, wait=10)["result"] == "cancel-me"
    assert fleet.client.get(fourth, wait=10)["result"] == "cancel-me"
    assert [fleet.client.get(one)["state"] for one in (leader, third)] == ["canceled"] * 2
    assert fleet.runs("cancel-me") == 1
    assert fleet.client.get(busy["id"])["state"] == "succeeded"


def test_a_follower_expires_on_time_and_its_leader_may_expire_without_it(
    fleet: Fleet, tmp_path: Path
) -> None:
    gate = tmp_path / "device"
    slow = fleet.client.submit("never", "slow", params={"until": str(gate)})
    wait_until(lambda: fleet.runs("slow"), 20, "the device to be busy")
    leader = fleet.client.submit("kept", "late", start_within=1.0)
    hurried = fleet.client.submit("kept", "late", deadline=0.5)
    patient = fleet.client.submit("kept", "late")
    assert fleet.client.get(hurried["id"], wait=20)["state"] == "expired"
    assert fleet.client.get(slow["id"])["state"] == "running", "it is on time"
    redis = fleet.stack.redis  # whose clock the bound counts on
    start_by = redis_seconds(redis) + 1.0
    wait_until(lambda: redis_seconds(redis) > start_by, 20, "the leader's bound")
    gate.touch()
    assert fleet.client.get(patient["id"], wait=20)["result"] == "late"
    assert fleet.client.get(leader["id"], wait=20)["state"] == "expired"
    assert fleet.runs("late") == 1


def test_an_urgent_job_does_not_wait_behind_a_patient_one_with_its_input(fleet: Fleet) -> None:
    fleet.client.submit("never", "occupied", params={"sleep_ms": 600})
    wait_until(lambda: fleet.runs("occupied"), 20, "the device to be busy")
    patient = fleet.client.submit("kept", "urgent", priority=9)
    urgent = fleet.client.submit("kept", "urgent", priority=0)
    assert fleet.client.get(urgent["id"], wait=10)["result"] == "urgent"
    assert fleet.client.get(patient["id"], wait=10)["result"] == "urgent"
    assert fleet.runs("urgent") == 1


def test_a_failure_is_shared_only_when_it_is_the_inputs_fault(fleet: Fleet) -> None:
    # In one call, as a worker that decodes ahead would fail the first before the second comes.
    lines = [{"model": "kept", "input": "r", "params": {"refuse": "no"}}] * 3
    lines += [{"model": "kept", "input": "b", "params": {"bad": True}}] * 3
    views = [fleet.client.get(one["id"], wait=10) for one in fleet.bulk(lines)]
    assert {one["error"]["reason"] for one in views[:3]} == {"invalid_input"}
    assert [one.get("shared", False) for one in views[:3]] == [False, True, True]
    assert {one["error"]["reason"] for one in views[3:]} == {"decode_failed"}
    assert not any(one.get("shared") for one in views[3:]), "each had its own try"
    again = fleet.client.submit("kept", "r", params={"refuse": "no"}, wait=10)
    assert "cached" not in again, "a failure is not kept"


# -- the cache ------------------------------------------------------------


def test_a_hit_says_so_and_is_a_job_like_any_other(fleet: Fleet) -> None:
    first = fleet.post(model="kept", input="hit")
    assert "age" not in first.headers
    assert "cached" not in first.json()
    fleet.await_kept("hit")
    answer = fleet.post(model="kept", input="hit")
    hit = answer.json()
    assert (answer.status_code, hit["cached"], hit["age"]) == (200, True, 0)
    assert answer.headers["age"] == "0"
    assert answer.headers["preference-applied"] == "wait=20"
    assert hit["result"] == first.json()["result"]
    assert hit["id"] != first.json()["id"]
    assert fleet.client.get(hit["id"]) == hit
    assert httpx.get(fleet.api.url + hit["links"]["result"]).status_code == 200
    plain = Celery("somebody-else", broker=fleet.stack.redis_url, backend=fleet.stack.redis_url)
    assert plain.AsyncResult(hit["id"]).get(timeout=20) == "hit"
    assert fleet.client.cancel(hit["id"])["state"] == "succeeded"
    assert fleet.runs("hit") == 1


def test_clients_may_want_a_fresh_result_or_none_to_be_kept(fleet: Fleet) -> None:
    fleet.await_kept("fresh")
    ran = fleet.runs("fresh")
    assert "cached" not in fleet.post(model="kept", input="fresh", cache=False).json()
    for header in ("no-store", "no-cache", "max-age=0"):
        found = fleet.post({"Cache-Control": header}, model="kept", input="fresh").json()
        assert "cached" not in found, header
    assert fleet.runs("fresh") == ran + 4
    assert fleet.post({"Cache-Control": "max-age=600"}, model="kept", input="fresh").json()[
        "cached"
    ]
    for fields in ({"cache": False}, {}):
        header = {} if fields else {"Cache-Control": "no-store"}
        fleet.post(header, model="kept", input=f"secret {header}", **fields)
    fleet.await_kept("written after those")  # a worker writes in the order it finished
    entries = [fleet.stack.redis.get(key) for key in fleet.stack.redis.scan_iter("lf:cache:*")]
    assert not any(b"secret" in (entry or b"") for entry in entries)


def test_a_greatest_age_is_asked_of_results_that_just_landed_too(fleet: Fleet) -> None:
    fleet.post(model="kept", input="landed")
    wait_until(lambda: fleet.await_kept("landed")["age"] >= 2, 20, "an age above the bound")
    fresh = fleet.post({"Cache-Control": "max-age=1"}, model="kept", input="landed").json()
    assert "cached" not in fresh
    assert "shared" not in fresh
    assert fleet.runs("landed") == 2
    wait_until(lambda: fleet.await_kept("landed")["age"] < 2, 20, "the newer result")
    [entry] = [
        key
        for key in fleet.stack.redis.scan_iter("lf:cache:*")
        if b'"landed"' in (fleet.stack.redis.get(key) or b"")
    ]
    fleet.stack.redis.delete(entry)  # as for one who looked before it was there
    for header in ({"Cache-Control": "max-age=60"}, {}):
        shared = fleet.post(header, model="kept", input="landed").json()
        assert shared["shared"] is True
    assert fleet.runs("landed") == 2


def test_results_are_kept_as_long_as_the_catalog_says(fleet: Fleet) -> None:
    fleet.await_kept("brief", "briefly")
    redis = fleet.stack.redis
    wait_until(lambda: not [*redis.scan_iter("lf:cache:briefly:*")], 20, "its end")
    assert "cached" not in fleet.client.submit("briefly", "brief", wait=10)
    for _ in range(2):
        assert "cached" not in fleet.client.submit("never", "again", wait=10)
    assert fleet.runs("again") == 2


def test_a_new_version_misses(fleet: Fleet) -> None:
    old = fleet.await_kept("version", "m")
    assert old["result"]["version"] == "1"
    assert fleet.client.move_alias("m", "m@2") == 1

    def moved() -> bool:
        return fleet.stack.redis.hget("lf:fingerprints", "m").startswith(b"m@2 ")  # type: ignore[union-attr]

    wait_until(moved, 20, "the move")
    fleet.api.await_samples()  # as often as it reads what serves each lane
    new = fleet.client.submit("m", "version", wait=10)
    assert "cached" not in new
    assert new["result"]["version"] == "2"
    assert fleet.await_kept("version", "m")["result"]["version"] == "2"
    assert fleet.client.submit("m@1", "version", wait=10)["cached"], (
        "an alias shares with its model"
    )


def test_what_is_no_entry_is_a_miss_and_is_replaced(fleet: Fleet) -> None:
    fleet.await_kept("spoiled")
    ran = fleet.runs("spoiled")
    redis = fleet.stack.redis
    (key,) = (
        k for k in redis.scan_iter("lf:cache:kept:*") if b'"spoiled"' in (redis.get(k) or b"")
    )
    for junk in (b"", b"garbage", b"lf1 a b c d\n[]", (redis.get(key) or b"")[:-3]):
        for hint in redis.scan_iter("lf:flight:*"):
            redis.delete(hint)
        redis.set(key, junk)
        job = fleet.client.submit("kept", "spoiled", wait=10)
        assert (job.get("cached"), job["result"]) == (None, "spoiled")
    fleet.await_kept("spoiled")
    assert fleet.runs("spoiled") == ran + 4


def test_bulk_takes_part(fleet: Fleet) -> None:
    fleet.await_kept("bulk-known")
    names = ["bulk-known", "bulk-new", "bulk-new", "bulk-known"]
    found = fleet.bulk([{"model": "kept", "input": name} for name in names])
    assert [one.get("cached", False) for one in found] == [True, False, False, True]
    jobs = [fleet.client.get(one["id"], wait=10) for one in found]
    assert [job["result"] for job in jobs] == names
    assert fleet.runs("bulk-new") == 1


def test_purging_a_model_drops_what_is_kept_of_it_and_of_no_other(fleet: Fleet) -> None:
    fleet.await_kept("purged")
    fleet.await_kept("other", "m@1")
    shown = subprocess.run(
        [sys.executable, "-m", "api.cli.main", "cache", "purge", "kept", "--url", fleet.api.url],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert shown.stdout.startswith("dropped ")
    assert not list(fleet.stack.redis.scan_iter("lf:cache:kept:*"))
    assert "cached" not in fleet.client.submit("kept", "purged", wait=10)
    assert fleet.client.submit("m@1", "other", wait=10)["cached"]
    assert httpx.delete(f"{fleet.api.url}/v1/models/nope/cache").status_code == 404


def test_the_command_warms_the_cache(fleet: Fleet, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.ndjson"
    lines = [json.dumps({"model": "kept", "input": f"warm{n % 20}"}) for n in range(40)]
    command = [sys.executable, "-m", "api.cli.main", "cache", "warm", str(jobs), "--json"]

    def warm(text: str) -> tuple[int, dict[str, int]]:
        jobs.write_text(text)
        done = subprocess.run(
            [*command, "--url", fleet.api.url],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    status, found = warm("\n".join(lines))
    assert (status, sum(found.values()), found["ran"]) == (0, 40, 20)
    status, found = warm("\n".join([*lines, "not json", '{"model": "nope", "input": 1}']))
    assert (status, found) == (1, {"cached": 40, "failed": 2})
    assert fleet.client.submit("kept", "warm7", wait=10)["cached"]


def test_without_its_redis_the_cache_misses_and_jobs_run(fleet: Fleet) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    api = fleet.stack.api("", LANEFLEET_CACHE_REDIS_URL=nowhere)
    fleet.await_kept("away")
    for _ in range(3):
        job = api.client.submit("kept", "away", wait=10)
        assert job["state"] == "succeeded"
    assert api.process.stop() == 0


# -- tenants --------------------------------------------------------------


def area_under_curve(one: list[float], other: list[float]) -> float:
    """How well a threshold tells samples of the one from those of the other; 0.5 is not at all."""
    ranked = sorted([(value, 0) for value in one] + [(value, 1) for value in other])
    ranks = sum(rank for rank, (_, label) in enumerate(ranked, 1) if label)
    return (ranks - len(other) * (len(other) + 1) / 2) / (len(one) * len(other))


def test_a_tenant_learns_nothing_of_what_another_has_kept(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def by_header(_self: auth.Authenticator, headers: Any) -> Principal:
        return Principal(dict(headers).get(b"x-tenant", b"").decode(), SCOPES)

    monkeypatch.setattr(auth.Authenticator, "identify", by_header)
    assert auth.LOCAL.tenant == ""
    pairs = 500

    async def run() -> tuple[list[float], list[float], dict[str, Any]]:
        chosen = {"models": (), "catalog": fleet.stack.folder / "models.yaml"}
        async with serving(fleet.stack.redis_url, **chosen) as app:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:

                async def submit(tenant: str, value: str) -> tuple[float, dict[str, Any]]:
                    body = {"model": "m@1", "input": value}
                    headers = {"Prefer": "wait=10", "X-Tenant": tenant}
                    began = time.perf_counter()
                    answer = await client.post("/v1/jobs", json=body, headers=headers)
                    return time.perf_counter() - began, answer.json()

                for first in range(0, pairs, 50):
                    some = range(first, first + 50)
                    await asyncio.gather(*(submit("a", f"pair {n}") for n in some))
                own: dict[str, Any] = {}
                while "cached" not in own:  # all of them: the last is written last
                    _, own = await submit("a", f"pair {pairs - 1}")
                kept, fresh = [], []
                for n in random.Random(5).sample(range(pairs), pairs):
                    for taken, value in random.sample(
                        [(kept, f"pair {n}"), (fresh, f"fresh {n}")], 2
                    ):
                        seconds, view = await submit("b", value)
                        assert "cached" not in view
                        taken.append(seconds)
                return kept, fresh, own

    kept, fresh, own = asyncio.run(run())
    assert own["cached"], "a tenant does find its own"
    auc = area_under_curve(kept, fresh)
    print(
        f"AUC over {pairs} pairs: {auc:.3f}; medians {sorted(kept)[250] * 1e3:.2f} and "
        f"{sorted(fresh)[250] * 1e3:.2f} ms"
    )
    assert 0.45 < auc < 0.55
