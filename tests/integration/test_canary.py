"""Several versions behind one alias, and shadows, on real servers."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.jobs.job import Job
from tests.support.stack import Process, Stack, wait_until
from worker.models.agreement import agreement_of

KIND = "tests.support.versions:Version"


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


def versions_of(stack: Stack, ids: list[str]) -> list[str]:
    """Who answered, once all are done; the results say what the records say."""
    wait_until(lambda: stack.states(ids).get("succeeded") == len(ids), 60, "every job")
    records = [stack.record(one) for one in ids]
    found = [record.version for record in records if record and record.version]
    assert found == [record.result["version"] for record in records if record]
    return found


def test_shares_stickiness_and_a_swap_while_a_canary_runs(stack: Stack) -> None:
    parts = {"m@1": 0.8, "m@2": 0.2}
    aliases = {"m": parts, "held": {"shares": parts, "sticky": True}}
    catalog(stack, aliases, m_1={}, m_2={"max_batch": 8})
    api = stack.api("")
    start(stack)
    wait_until(lambda: shares(stack) == parts == shares(stack, "held"), 20, "both versions")
    (shown,) = [one for one in api.client.models() if one["name"] == "m"]
    assert (shown["alias_of"], shown["shares"], shown["sticky"]) == ("m@1", parts, False)

    jobs = [Job("m", number) for number in range(2000)]
    found = versions_of(stack, stack.publish(jobs))
    target = {job.id: version for job, version in zip(jobs, found, strict=True)}
    assert 0.16 < found.count("2") / len(found) < 0.24, "five standard deviations"
    (report,) = stack.await_reports()
    assert max(map(int, report.lanes["m"].batches)) <= 8, "the tighter of both limits"

    tenants = [f"tenant-{number % 40}" for number in range(400)]
    held = [Job("held", number, tenant=tenant) for number, tenant in enumerate(tenants)]
    by_tenant: dict[str, set[str]] = {}
    for tenant, version in zip(tenants, versions_of(stack, stack.publish(held)), strict=True):
        by_tenant.setdefault(tenant, set()).add(version)
    assert all(len(one) == 1 for one in by_tenant.values()), by_tenant
    assert {"1", "2"} == set().union(*by_tenant.values())
    assert target

    ids: list[str] = []
    enough = threading.Event()

    def feed() -> None:
        while not enough.wait(0.005):
            ids.extend(stack.publish([Job("m", len(ids))]))

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert api.client.move_alias("m", "m@2", 0.5) == 1
    wait_until(lambda: shares(stack) == {"m@1": 0.5, "m@2": 0.5}, 20, "the larger share")
    assert api.client.move_alias("m", "m@2") == 1
    wait_until(lambda: [one.lanes["m"].model for one in stack.reports()] == ["m@2"], 20, "m@2")
    last = len(ids)
    wait_until(lambda: len(ids) > last + 50, 20, "jobs of the new one")
    enough.set()
    feeder.join()
    assert set(versions_of(stack, ids)[last + 10 :]) == {"2"}
    (shown,) = [one for one in api.client.models() if one["name"] == "m"]
    assert (shown["alias_of"], shown["shares"]) == ("m@2", {})


def test_the_share_of_a_version_that_cannot_be_loaded_goes_to_the_other(stack: Stack) -> None:
    catalog(
        stack,
        {"m": {"m@1": 0.5, "m@2": 0.5}, "n": {"m@1": 0.1, "m@2": 0.9}},
        m_1={},
        m_2={"options": {"broken": True}},
    )
    api = stack.api("")
    start(stack)
    lanes = ("m", "n")
    for lane in lanes:
        wait_until(lambda lane=lane: [r for r in stack.reports() if r.lanes[lane].loaded], 20, lane)  # type: ignore[misc]
    ids = stack.publish([Job(lanes[number % 2], number) for number in range(100)])
    assert set(versions_of(stack, ids)) == {"1"}
    (report,) = stack.await_reports()
    assert any("m@2 is not loaded, its jobs go to others: " in one for one in report.warnings)
    (shown,) = [one for one in api.client.models() if one["name"] == "m"]
    assert "m@2: ValueError: broken on request" == next(iter(shown["errors"].values()))


def test_kept_results_and_shared_runs_never_mix_versions(stack: Stack) -> None:
    kept = {"cache_seconds": 600}
    catalog(stack, {"m": {"m@1": 0.5, "m@2": 0.5}}, m_1=kept, m_2=kept)
    api = stack.api("")
    start(stack)
    wait_until(lambda: len(shares(stack)) == 2, 20, "both versions")
    redis = stack.redis

    def known() -> bool:
        said = redis.hget("lf:fingerprints", "m") or b""
        return said.startswith(b"{") and b'""' not in said  # type: ignore[union-attr,operator]

    wait_until(known, 20, "the weights of both")
    api.await_samples()
    fresh = Counter[str]()
    cached = Counter[str]()
    for _ in range(40):
        job = api.client.submit("m", "same", wait=10)
        (cached if job.get("cached") else fresh)[job["version"]] += 1
        assert job["result"]["version"] == job["version"]
    assert set(cached) == {"1", "2"}, "each version answers from its own results"
    assert 2 <= fresh.total() <= 10, fresh
    bulk = api.client.submit_many([{"model": "m", "input": f"b{n % 4}"} for n in range(80)])
    ended = [api.client.get(one["id"], wait=10) for one in bulk]
    assert {one["result"]["version"] for one in ended} == {"1", "2"}
    assert all(one["result"]["version"] == one["version"] for one in ended)


def test_moves_that_cannot_be_meant_are_refused(stack: Stack) -> None:
    catalog(stack, {"m": "m@1"}, m_1={}, m_2={}, other_3={"input": "text"}, again={"version": 2})
    api = stack.api("")
    asked = {"model": "m@1", "share": 0.5}
    refusals = [
        (asked, 409, "m@1' has all jobs"),
        ({"model": "m@2", "share": 1.5}, 422, "share"),
        ({"model": "other@3", "share": 0.5}, 409, "takes text"),
        ({"model": "none", "share": 0.5}, 404, "no model"),
    ]
    for body, status, text in refusals:
        answer = api.client._http.put("/v1/models/m/alias", json=body)  # type: ignore[attr-defined]
        assert (answer.status_code, text in answer.text) == (status, True), answer.text
    assert api.client.move_alias("m", "m@2", 0.25, True) == 0
    (shown,) = [one for one in api.client.models() if one["name"] == "m"]
    assert (shown["shares"], shown["sticky"]) == ({"m@1": 0.75, "m@2": 0.25}, True)
    again = {"model": "again", "share": 0.5}
    answer = api.client._http.put("/v1/models/m/alias", json=again)  # type: ignore[attr-defined]
    assert (answer.status_code, "both say version" in answer.text) == (409, True), answer.text


def planted(numbers: range) -> float:
    """The agreement of both versions on these inputs, counted without any server."""
    one, two = ([{"labels": [{"label": label(n, v)}]} for n in numbers] for v in ("1", "2"))
    return agreement_of(one, two).value


def label(number: int, version: str) -> str:
    from tests.support.versions import label_of

    return label_of(number, version)


def shadow_of(stack: Stack) -> Any:
    (report,) = stack.await_reports()
    return report.lanes["m"].shadow


def test_a_shadow_measures_a_planted_difference_and_is_unseen(stack: Stack) -> None:
    catalog(
        stack, {"m": "m@1"}, m_1={"shadow": "m@2", "task": "classify"}, m_2={"task": "classify"}
    )
    api = stack.api("")
    start(stack, LANEFLEET_SHADOW_SHARE="1", LANEFLEET_SHADOW_WAITING_JOBS="5000")
    wait_until(lambda: shadow_of(stack) and shadow_of(stack).loaded, 20, "the shadow")
    numbers = range(1000)
    ids = stack.publish([Job("m", number) for number in numbers])
    assert set(versions_of(stack, ids)) == {"1"}
    wait_until(lambda: shadow_of(stack).compared == 1000, 30, "all comparisons")
    found = shadow_of(stack)
    assert found.agreement == pytest.approx(planted(numbers))
    assert 0.5 < found.agreement < 1
    assert (found.failed, found.dropped) == (0, 0)
    assert stack.stats("m@2").get("succeeded", 0) == 0, "nobody has its results"
    assert api.client.get_model("m")["shadow"] == "m@2"


@pytest.mark.parametrize("fault", ["raises", "oom", "bad", "unequal"])
def test_a_shadow_that_fails_hurts_nobody(stack: Stack, fault: str) -> None:
    catalog(stack, {"m": "m@1"}, m_1={"shadow": "m@2"}, m_2={"options": {"fault": fault}})
    worker = start(stack, LANEFLEET_SHADOW_SHARE="1")
    wait_until(lambda: shadow_of(stack) and shadow_of(stack).loaded, 20, "the shadow")
    ids = stack.publish([Job("m", number) for number in range(64)])
    assert set(versions_of(stack, ids)) == {"1"}
    wait_until(lambda: shadow_of(stack).failed + shadow_of(stack).compared == 64, 20, "its end")
    assert shadow_of(stack).failed == {"raises": 64, "oom": 0, "bad": 8, "unequal": 0}[fault]
    assert worker.alive


@pytest.mark.slow
def test_a_shadow_that_hangs_costs_its_process_and_no_job(stack: Stack) -> None:
    hangs = {"options": {"fault": "hangs"}}
    catalog(stack, {"m": "m@1"}, m_1={"shadow": "m@2"}, m_2=hangs)
    start(stack, LANEFLEET_SHADOW_SHARE="1", LANEFLEET_SHADOW_TIMEOUT_SECONDS="1")
    wait_until(lambda: shadow_of(stack) and shadow_of(stack).loaded, 20, "the shadow")
    (before,) = stack.reports()
    ids = stack.publish([Job("m", number) for number in range(8)])
    assert set(versions_of(stack, ids)) == {"1"}
    wait_until(lambda: any(one.pid != before.pid for one in stack.reports()), 60, "another process")
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
    start(stack, LANEFLEET_SHADOW_SHARE="0.5", LANEFLEET_SHADOW_WAITING_JOBS="2000")
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
    assert api.client.move_alias("m", "m@3") == 1
    wait_until(lambda: [one.lanes["m"].model for one in stack.reports()] == ["m@3"], 30, "m@3")
    after = stack.publish([Job("m", n) for n in range(200)])
    assert set(versions_of(stack, more)) <= {"1", "2", "3"}
    assert set(versions_of(stack, after)) == {"3"}
