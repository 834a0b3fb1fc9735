"""The demand as scalers read it equals what workers are needed for, at every stage of a lane."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from api.cli.main import app
from api.tenants.api_keys import Keyring
from common.jobs.job import Job
from common.redis.embedded_server import RedisServer
from common.redis.keys import LaneKeys
from tests.support.lanes import LANE, RecordedLane, await_settled
from tests.support.stack import ApiProcess, Stack, wait_until

KEYS = LaneKeys.of(LANE)
TENANT_JOBS = 200


@pytest.fixture(scope="module")
def fleet(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A recorded lane, with nobody to serve it."""
    made = Stack(embedded_redis.url, tmp_path_factory.mktemp("demand"))
    made.redis.flushall()
    RecordedLane.on(made, LANEFLEET_COLD_START_SECONDS="600")
    yield made
    made.close()


@pytest.fixture(scope="module")
def api(fleet: Stack) -> ApiProcess:
    return fleet.api(LANE)


@pytest.fixture(autouse=True)
def stack(fleet: Stack) -> Iterator[Stack]:
    """The same, empty; its workers end with the test."""
    fleet.redis.flushall()
    kept = len(fleet.processes)
    yield fleet
    for process in fleet.processes[kept:]:
        process.kill()


def signal(api: ApiProcess, path: str = f"demand.{LANE}") -> float:
    """As KEDA's metrics-api trigger reads it."""
    found: Any = httpx.get(f"{api.url}/v1/lanes", headers=api.headers, timeout=10).json()
    for word in path.split("."):
        found = found[word]
    assert isinstance(found, int)
    return found


def gauges(api: ApiProcess) -> dict[str, float]:
    """The lane's samples, by name and further labels."""
    text = httpx.get(f"{api.url}/metrics", headers=api.headers, timeout=10).text
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("lane") == LANE and sample.name.startswith("lanefleet_lane_"):
                more = [value for name, value in sorted(sample.labels.items()) if name != "lane"]
                found[".".join((sample.name.removeprefix("lanefleet_lane_"), *more))] = sample.value
    return found


def test_jobs_of_one_tenant_over_its_window_are_all_demand(stack: Stack, api: ApiProcess) -> None:
    window = stack.settings.tenant_window_jobs
    stack.publish([Job(LANE, n, tenant="acme") for n in range(TENANT_JOBS)])
    assert stack.redis.llen(LANE) == window, "what KEDA's list trigger would see"
    assert signal(api) == TENANT_JOBS
    assert signal(api, "demand_total") == TENANT_JOBS
    view = api.client.list_lanes(LANE)[LANE]
    assert (view["waiting"], view["beside"]) == (TENANT_JOBS, TENANT_JOBS - window)
    assert view["bands"] == {"0": TENANT_JOBS, "3": 0, "6": 0, "9": 0}
    assert (view["workers"], view["drain_jobs_per_second"], view["drain_seconds"]) == (
        0,
        None,
        None,
    )
    assert view["cold_start_seconds"] == 600
    found = gauges(api)
    assert found["demand"] == found["waiting.0"] == TENANT_JOBS
    assert found["beside"] == TENANT_JOBS - window
    older = view["oldest_age_seconds"]
    wait_until(lambda: api.client.lanes()[LANE]["oldest_age_seconds"] > older, 20, "it to age")


def test_what_is_leased_at_the_end_of_the_queue_is_demand(stack: Stack, api: ApiProcess) -> None:
    gate = stack.folder / "gate"
    worker = stack.worker(LANE)
    ids = stack.publish([Job(LANE, f"n{n}", {"until": str(gate)}) for n in range(20)])
    wait_until(lambda: stack.redis.hlen(KEYS.unacked) == 20, 20, "all to be leased")
    assert stack.redis.llen(LANE) == 0
    assert signal(api) == 20
    view = api.client.list_lanes()[LANE]
    assert (view["waiting"], view["leased"], view["workers"]) == (0, 20, 1)
    gate.touch()
    await_settled(stack, ids, 20)
    assert signal(api) == 0
    api.await_samples(1)
    assert gauges(api)["jobs_total.succeeded"] == 20
    report = stack.await_reports(1)[0]
    assert 0 < report.start_seconds < 600
    kept = wait_until(lambda: stack.redis.hget("lf:cold-starts", LANE), 20, "it to be kept")
    took = report.start_seconds + report.models[LANE].load_seconds
    assert float(kept) == pytest.approx(took, abs=0.1)  # type: ignore[arg-type]
    assert worker.stop() == 0
    assert api.client.list_lanes()[LANE]["cold_start_seconds"] == pytest.approx(600 + took, abs=0.2)


def test_with_only_an_eta_job_left_the_demand_comes_when_it_is_near(
    stack: Stack, api: ApiProcess
) -> None:
    producer = Celery("producer", broker=stack.redis_url, backend=stack.redis_url)

    def send(countdown: float) -> Any:
        kwargs = {"model": LANE, "input": f"after{countdown}"}
        return producer.send_task("infer", kwargs=kwargs, queue=LANE, countdown=countdown)

    far = send(86_400)
    wait_until(lambda: stack.redis.zcard(KEYS.delayed) == 1, 20, "it to be delayed, by no worker")
    assert signal(api) == 0
    near, soon = send(500), send(2)
    wait_until(
        lambda: stack.redis.zcard(KEYS.delayed) == 2 and stack.redis.llen(LANE), 20, "one to be due"
    )
    assert signal(api) == 2
    stack.worker(LANE)
    assert soon.get(timeout=30) == "after2"
    assert signal(api) == 1
    assert {one.state for one in (far, near)} == {"PENDING"}


def test_a_late_job_ends_with_no_worker(stack: Stack, api: ApiProcess) -> None:
    late = api.client.submit(LANE, "late", start_within=1)["id"]
    wait_until(lambda: stack.states([late]) == {"expired": 1}, 20, "it to expire, by no worker")
    assert signal(api) == 0
    assert not stack.redis.exists(LANE)


def test_the_command_line_lists_and_watches_lanes(stack: Stack, api: ApiProcess) -> None:
    stack.publish([Job(LANE, n) for n in range(3)])

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--url", api.url])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert json.loads(run("lanes", "list", LANE, "--json"))[LANE]["demand"] == 3
    look = json.loads(run("top", "--once", "--json"))
    assert look["lanes"][LANE]["demand"] == 3
    for words in (("lanes", "list"), ("top", "--once")):
        table = run(*words)
        assert "demand" in table
        assert LANE in table


def test_without_redis_there_is_no_figure(tmp_path: Any, own_stack: Stack) -> None:
    """KEDA then holds what there is, or takes its fallback."""
    RecordedLane.on(own_stack)
    api = own_stack.api(LANE)
    own_stack.publish([Job(LANE, 1)])
    assert signal(api) == 1
    own_stack.redis.shutdown(nosave=True)
    answer = httpx.get(f"{api.url}/v1/lanes", timeout=20)
    assert answer.status_code == 503
    assert answer.json()["type"].endswith("queue-unavailable")


def test_a_scaler_reads_with_the_scope_metrics_and_does_no_more(
    stack: Stack, api: ApiProcess
) -> None:
    """The last one here: keys exist from now on."""
    ring = Keyring(stack.redis)
    keys = {
        scope: {"X-API-Key": ring.create(scope, scope, frozenset({scope}))[1]}
        for scope in ("metrics", "read", "admin")
    }
    wait_until(lambda: httpx.get(f"{api.url}/v1/lanes").status_code == 401, 20, "keys to count")
    codes = {
        scope: httpx.get(f"{api.url}/v1/lanes", headers=key).status_code
        for scope, key in keys.items()
    }
    assert codes == {"metrics": 200, "read": 403, "admin": 200}
    for action in ("drop", "breaker/reset"):
        url = f"{api.url}/v1/lanes/{LANE}/{action}"
        assert httpx.post(url, headers=keys["metrics"]).status_code == 403
    unknown = httpx.get(f"{api.url}/v1/lanes?lane=nope", headers=keys["metrics"])
    assert unknown.status_code == 404
    assert LANE in unknown.json()["detail"]
