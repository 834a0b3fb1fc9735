"""Several versions behind one alias, and shadows, on real servers."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from api.cli.fleet import free_port
from api.cli.models import models
from common.jobs.job import Job
from common.redis.embedded_server import RedisServer
from tests.support.metrics import undeclared, value
from tests.support.stack import ApiProcess, Process, Stack, wait_until
from tests.support.versions import label_of
from worker.models.agreement import agreement_of

KIND = "tests.support.versions:Version"
FAULTS = ("raises", "oom", "bad", "unequal")
PARTS = {"m@1": 0.8, "m@2": 0.2}


def catalog(stack: Stack, aliases: dict[str, Any], **models: Any) -> None:
    """Serve these models, `m_1` as `m@1`, all of them `Version`."""
    entries = {
        name.replace("_", "@"): {"handler": KIND, "input": "json", "max_batch": 32, **body}
        for name, body in models.items()
    }
    path = Path(stack.folder) / "models.yaml"
    path.write_text(yaml.safe_dump({"models": entries, "aliases": aliases}))
    stack.environment["LANEFLEET_CATALOG"] = str(path)


def start(stack: Stack, **environment: str) -> Process:
    """A worker, whatever of its models can be loaded."""
    worker = stack._start("worker", ["-m", "worker"], "", environment)
    wait_until(stack.reports, 30, "a worker")
    return worker


def shares(stack: Stack, lane: str = "m") -> dict[str, float]:
    """Those that the worker goes by."""
    return next((one.lanes[lane].shares for one in stack.reports()), {})


def shadow_of(stack: Stack, lane: str = "m") -> Any:
    """What the lane's shadow has done."""
    return next((one.lanes[lane].shadow for one in stack.reports()), None)


def versions_of(stack: Stack, ids: list[str]) -> list[str]:
    """Who answered, once all are done; the results say what the records say."""
    wait_until(lambda: stack.states(ids).get("succeeded") == len(ids), 60, "every job")
    records = [stack.record(one) for one in ids]
    found = [record.version for record in records if record and record.version]
    told = [record.result.get("version") for record in records if record]
    assert told in (found, [None] * len(ids))
    return found


class Fleet:
    """One worker and one API for the quick tests; each has lanes of its own."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        parts = PARTS
        self.port = free_port()
        aliases = {
            "m": parts,
            "held": {"shares": parts, "sticky": True},
            "moved": parts,
            "still": "m@1",
            "broken": {"m@1": 0.5, "b@3": 0.5},
            "most-broken": {"m@1": 0.1, "b@3": 0.9},
            "kept": {"k@1": 0.5, "k@2": 0.5},
        }
        entries: dict[str, Any] = {
            "m_1": {},
            "m_2": {"max_batch": 8},
            "b_3": {"options": {"broken": True}},
            "k_1": {"cache_seconds": 600},
            "k_2": {"cache_seconds": 600},
            "s_1": {"shadow": "s@2", "task": "classify"},
            "s_2": {"task": "classify"},
            "other_4": {"input": "text"},
            "same": {"version": "2"},
        }
        for fault in FAULTS:
            entries[f"{fault}_1"] = {"shadow": f"{fault}_2".replace("_", "@")}
            entries[f"{fault}_2"] = {"options": {"fault": fault}}
        catalog(stack, aliases, **entries)
        self.worker = start(
            stack,
            LANEFLEET_SHADOW_SHARE="1",
            LANEFLEET_SHADOW_WAITING_JOBS="5000",
            LANEFLEET_WORKER_HEALTH_PORT=str(self.port),
        )
        self.api: ApiProcess = stack.api("")
        self.client = self.api.client
        wait_until(lambda: shares(stack, "kept"), 60, "the versions")
        wait_until(lambda: shadow_of(stack, "unequal@1").loaded, 60, "the shadows")

    def model(self, name: str) -> dict[str, Any]:
        """As /v1/models has it."""
        return next(one for one in self.client.models() if one["name"] == name)


@pytest.fixture(scope="module")
def fleet(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    stack = Stack(embedded_redis.url, tmp_path_factory.mktemp("canary"))
    stack.redis.flushall()
    try:
        yield Fleet(stack)
    finally:
        stack.close()


def test_jobs_go_by_their_shares_and_tenants_stay_where_asked(fleet: Fleet) -> None:
    stack = fleet.stack
    assert shares(stack, "m") == PARTS == shares(stack, "held")
    shown = fleet.model("m")
    assert (shown["alias_of"], shown["shares"], shown["sticky"]) == ("m@1", PARTS, False)
    found = versions_of(stack, stack.publish([Job("m", number) for number in range(1000)]))
    assert 0.14 < found.count("2") / len(found) < 0.26, "five standard deviations are 0.063"
    (report,) = stack.await_reports()
    assert max(map(int, report.lanes["m"].batches)) <= 8, "the tighter of both limits"
    tenants = [f"tenant-{number % 40}" for number in range(200)]
    held = [Job("held", number, tenant=tenant) for number, tenant in enumerate(tenants)]
    by_tenant: dict[str, set[str]] = {}
    for tenant, version in zip(tenants, versions_of(stack, stack.publish(held)), strict=True):
        by_tenant.setdefault(tenant, set()).add(version)
    assert all(len(one) == 1 for one in by_tenant.values()), by_tenant
    assert set().union(*by_tenant.values()) == {"1", "2"}


def test_a_share_grows_and_the_alias_moves_under_load(fleet: Fleet) -> None:
    stack, ids = fleet.stack, []
    enough = threading.Event()

    def feed() -> None:
        while not enough.wait(0.005):
            ids.extend(stack.publish([Job("moved", len(ids))]))

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        assert fleet.client.move_alias("moved", "m@2", 0.5) == 1
        halves = {"m@1": 0.5, "m@2": 0.5}
        wait_until(lambda: shares(stack, "moved") == halves, 20, "the larger share")
        assert fleet.client.move_alias("moved", "m@2") == 1
        lane = lambda: next(one.lanes["moved"] for one in stack.reports())  # noqa: E731
        wait_until(lambda: lane().model == "m@2" and not lane().shares, 20, "the move")
        last = len(ids)
        wait_until(lambda: len(ids) > last + 50, 20, "jobs of the new one")
    finally:
        enough.set()
        feeder.join()
    found = versions_of(stack, ids)
    assert "1" in found
    assert set(found[last + 10 :]) == {"2"}
    assert (fleet.model("moved")["alias_of"], fleet.model("moved")["shares"]) == ("m@2", {})


def test_the_share_of_a_version_that_cannot_be_loaded_goes_to_the_other(fleet: Fleet) -> None:
    stack, lanes = fleet.stack, ("broken", "most-broken")
    ids = stack.publish([Job(lanes[number % 2], number) for number in range(60)])
    assert set(versions_of(stack, ids)) == {"1"}
    (report,) = stack.await_reports()
    assert any("b@3 is not loaded, its jobs go to others: " in one for one in report.warnings)
    (why,) = set(fleet.model("broken")["errors"].values())
    assert why.startswith("b@3: ValueError: broken on request (versions.py:")


def test_kept_results_and_shared_runs_never_mix_versions(fleet: Fleet) -> None:
    redis = fleet.stack.redis

    def known() -> bool:
        said: Any = redis.hget("lf:fingerprints", "kept") or b""
        return said.startswith(b"{") and b':""' not in said

    wait_until(known, 20, "the weights of both")
    fleet.api.await_samples()
    looks: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for _ in range(24):
        job = fleet.client.submit("kept", "same", wait=10)
        looks[job.get("cached", False)][job["version"]] += 1
        assert job["result"]["version"] == job["version"]
    assert set(looks[True]) == {"1", "2"}, "each version answers from its own results"
    assert looks[False].total() < 20, looks
    jobs = "\n".join(f'{{"model": "kept", "input": "b{number % 4}"}}' for number in range(40))
    lines = httpx.post(f"{fleet.api.url}/v1/jobs/bulk", content=jobs).text.splitlines()
    ended = [fleet.client.get(json.loads(line)["id"], wait=10) for line in lines]
    assert {one["result"]["version"] for one in ended} == {"1", "2"}
    assert all(one["result"]["version"] == one["version"] for one in ended)


def test_moves_that_cannot_be_meant_are_refused(fleet: Fleet) -> None:
    refusals = [
        ({"model": "m@1", "share": 0.5}, 409, "has all jobs"),
        ({"model": "m@2", "share": 1.5}, 422, "share"),
        ({"model": "other@4", "share": 0.5}, 409, "takes text"),
        ({"model": "none", "share": 0.5}, 404, "no model"),
    ]
    for body, status, text in refusals:
        answer = httpx.put(f"{fleet.api.url}/v1/models/still/alias", json=body)
        assert (answer.status_code, text in answer.text) == (status, True), answer.text
    assert fleet.client.move_alias("still", "m@2", 0.25, True) == 1
    shown = fleet.model("still")
    assert (shown["shares"], shown["sticky"]) == ({"m@1": 0.75, "m@2": 0.25}, True)
    body = {"model": "same", "share": 0.5}
    answer = httpx.put(f"{fleet.api.url}/v1/models/still/alias", json=body)
    assert (answer.status_code, "both say version" in answer.text) == (409, True), answer.text
    words = ["move", "still", "m@2", "--share", "0.5", "--not-sticky", "--url", fleet.api.url]
    said = CliRunner().invoke(models, words)
    assert said.output == "m@2 gets 0.5 of still; workers that heard it: 1\n", said.output
    listed = CliRunner().invoke(models, ["list", "--json", "--url", fleet.api.url])
    still = next(one for one in json.loads(listed.output) if one["name"] == "still")
    assert (still["shares"], still["sticky"]) == ({"m@1": 0.5, "m@2": 0.5}, False)
    assert fleet.client.move_alias("still", "m@1", 1) == 1
    assert fleet.model("still")["alias_of"] == "m@1"


def planted(numbers: range) -> float:
    """The agreement of both versions on these inputs, counted without any server."""
    one, two = ([{"labels": [{"label": label_of(n, v)}]} for n in numbers] for v in ("1", "2"))
    return agreement_of(one, two).value


def test_a_shadow_measures_a_planted_difference_and_is_unseen(fleet: Fleet) -> None:
    stack, numbers = fleet.stack, range(300)
    ids = stack.publish([Job("s@1", number, tenant="acme") for number in numbers])
    assert set(versions_of(stack, ids)) == {"1"}
    wait_until(lambda: shadow_of(stack, "s@1").compared == len(numbers), 30, "all comparisons")
    found = shadow_of(stack, "s@1")
    assert found.agreement == pytest.approx(planted(numbers))
    assert 0.5 < found.agreement < 1
    assert (found.failed, found.dropped) == (0, 0)
    assert stack.stats("s@2").get("succeeded", 0) == 0, "nobody has its results"
    assert fleet.model("s@1")["shadow"] == "s@2"
    text = httpx.get(f"http://127.0.0.1:{fleet.port}/metrics").text
    assert undeclared(text) == []
    lane = {"lane": "s@1"}
    compared = value(text, "lanefleet_worker_shadow_jobs_total", **lane, outcome="compared")
    assert compared == len(numbers)
    total = value(text, "lanefleet_worker_shadow_agreement_ratio_sum", **lane)
    assert total == pytest.approx(found.agreement * len(numbers))
    assert value(text, "lanefleet_worker_confidence_ratio_count", **lane) == len(numbers)
    assert value(text, "predictions_total", **lane, status="success") == len(numbers)
    assert value(text, "lanefleet_worker_device_seconds_total", state="shadow") > 0


def test_shadows_that_fail_hurt_nobody(fleet: Fleet) -> None:
    stack, count = fleet.stack, 32
    for fault in FAULTS:
        ids = stack.publish([Job(f"{fault}@1", number) for number in range(count)])
        assert set(versions_of(stack, ids)) == {"1"}
    failed = {"raises": count, "oom": 0, "bad": count // 8, "unequal": 0}
    for fault in FAULTS:
        lane = f"{fault}@1"
        done = lambda lane=lane: shadow_of(stack, lane).failed + shadow_of(stack, lane).compared  # noqa: E731
        wait_until(lambda done=done: done() == count, 20, "its end")  # type: ignore[misc]
        assert shadow_of(stack, lane).failed == failed[fault]
    assert shadow_of(stack, "unequal@1").agreement == 0
    assert fleet.worker.alive


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hangs", "dies"])
def test_a_shadow_that_ends_its_process_costs_no_job(stack: Stack, fault: str) -> None:
    catalog(stack, {"m": "m@1"}, m_1={"shadow": "m@2"}, m_2={"options": {"fault": fault}})
    worker = start(
        stack,
        LANEFLEET_SHADOW_TIMEOUT_SECONDS="1",
        LANEFLEET_SUPERVISED="true",
        LANEFLEET_LEASE_SECONDS="5",
    )
    wait_until(lambda: shadow_of(stack) and shadow_of(stack).loaded, 20, "the shadow")
    (before,) = stack.reports()
    ids = stack.publish([Job("m", number) for number in range(8)])
    assert set(versions_of(stack, ids)) == {"1"}
    ids = stack.publish([Job("m", number) for number in range(8)])  # while it hangs
    assert set(versions_of(stack, ids)) == {"1"}
    wait_until(lambda: any(one.pid != before.pid for one in stack.reports()), 60, "another process")

    def is_out() -> bool:
        stack.publish([Job("m", 1)])
        return "model_out_of_service" in worker.output()

    wait_until(is_out, 120, "the end of its service")
    ids = stack.publish([Job("m", number) for number in range(8)])
    assert set(versions_of(stack, ids)) == {"1"}


@pytest.mark.slow
def test_ten_thousand_jobs_with_a_canary_a_shadow_and_a_swap(stack: Stack) -> None:
    task = {"task": "classify"}
    catalog(
        stack,
        {"m": {"m@1": 0.95, "m@2": 0.05}},
        m_1={"shadow": "m@2", **task, "options": {"batch_ms": 2}},
        m_2={**task, "options": {"batch_ms": 2}},
        m_3={"load": "lazy", **task},
    )
    api = stack.api("")
    worker = start(stack, LANEFLEET_SHADOW_SHARE="0.5", LANEFLEET_SHADOW_WAITING_JOBS="2000")
    wait_until(lambda: len(shares(stack)) == 2, 20, "both versions")
    ids: list[str] = []
    while len(ids) < 12_000:  # in bursts, so that the device is idle now and then
        ids += stack.publish([Job("m", len(ids) + n) for n in range(500)])
        wait_until(lambda last=ids[-500:]: stack.states(last) == {"succeeded": 500}, 60, "a burst")
    found = versions_of(stack, ids)
    share = found.count("2") / len(found)
    print(f"{len(ids)} jobs, {share:.4f} of them to the canary; {shadow_of(stack)}")
    assert abs(share - 0.05) <= 0.01
    wait_until(lambda: shadow_of(stack).compared > 500, 60, "comparisons")
    assert shadow_of(stack).agreement == pytest.approx(planted(range(10_000)), abs=0.08)
    more = stack.publish([Job("m", n) for n in range(4000)])
    worker.kill()  # its jobs are run by another, each by the version that it is for
    worker = start(stack, LANEFLEET_SHADOW_SHARE="0.5")
    wait_until(lambda: worker.pid in {one.pid for one in stack.reports()}, 30, "another worker")
    assert api.client.move_alias("m", "m@3") == 1
    serving = lambda: {one.lanes["m"].model for one in stack.reports() if one.pid == worker.pid}  # noqa: E731
    wait_until(lambda: serving() == {"m@3"}, 30, "m@3")
    after = stack.publish([Job("m", n) for n in range(200)])
    assert set(versions_of(stack, more)) <= {"1", "2", "3"}
    assert set(versions_of(stack, after)) == {"3"}
