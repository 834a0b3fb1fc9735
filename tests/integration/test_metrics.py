"""What API and worker expose: exactly what is declared, few series, and true counts."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import yaml

from api.cli.fleet import free_port
from api.client import Client
from common.metrics import batches, compatible, lanes, worker
from common.metrics.declaration import Metric, Process
from common.metrics.table import METRICS
from common.redis.embedded_server import RedisServer
from common.redis.keys import WEIGHTS_DIGESTS, WORKERS, worker_key
from common.redis.scripts import Scripts
from common.worker_report import LaneReport, WorkerReport
from tests.integration.test_server_processes import events, retried
from tests.support.metrics import families, lint, missing, samples, scrape, undeclared, value
from tests.support.stack import ApiProcess, Stack, wait_until

JOBS = 40
PACED = "tests.support.handlers:Paced"
WORKERS_CHURNED = 1_000
NOT_HERE = {
    worker.DEVICE_UTILIZATION,
    worker.DEVICE_MEMORY_USED,
    worker.DEVICE_MEMORY,
    worker.DEVICE_POWER,
    worker.TENANT_DEVICE_SECONDS,
    worker.TENANT_ITEMS,
    worker.TENANT_SPEND,
    compatible.SERVING_GPU,
    batches.BATCH_LINES_WAITING,
    *(one for one in METRICS if one.when == "its model is a generator"),
    *(worker.CONFIDENCE, worker.SHADOW_AGREEMENT, worker.SHADOW_JOBS),
}
"""Without a GPU, tenants, batches, a generator (test_generation.py), a classifier and a shadow
(test_canary.py)."""
UNKNOWN_YET = {lanes.LANE_DRAIN_RATE, lanes.LANE_DRAIN_SECONDS}
"""Nothing has kept the workers busy for long enough."""


def declared_for(process: Process) -> set[Metric]:
    return {one for one in METRICS if process in one.served_by} - NOT_HERE - UNKNOWN_YET


def send(api: ApiProcess, count: int) -> None:
    def submit(number: int) -> None:
        body = {"model": "echo", "input": f"job {number}"}
        headers = {"Prefer": "wait=20"}
        answer = httpx.post(f"{api.url}/v1/jobs", json=body, headers=headers, timeout=40)
        assert answer.status_code == 200, answer.text

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(submit, range(count)))


class Served:
    """An API and a worker that have done some work; the texts are what they expose then."""

    def __init__(self, stack: Stack) -> None:
        port, catalog = str(free_port()), stack.folder / "models.yaml"
        model = {"handler": PACED, "cache_seconds": 60, "options": {"batch_ms": 1}}
        catalog.write_text(yaml.safe_dump({"models": {"echo": model}}))
        stack.environment.update(
            LANEFLEET_CATALOG=str(catalog),
            LANEFLEET_WORKER_HEALTH_PORT=port,
            LANEFLEET_METRICS_COMPATIBILITY="true",
            LANEFLEET_DEVICE_HOUR_PRICE="3.6",
        )
        self.stack, self.api = stack, stack.api()
        stack.worker()
        self._work()
        self.front = scrape(f"{self.api.url}/metrics")
        self.worker = wait_until(
            lambda: (
                (text := scrape(f"http://127.0.0.1:{port}/metrics"))
                and not missing(text, declared_for("worker"))
                and text
            ),
            20,
            "every metric of the worker",
        )

    def _work(self) -> None:
        jobs = f"{self.api.url}/v1/jobs"
        send(self.api, JOBS)
        repeated = {"model": "echo", "input": "job 1"}
        wait_until(lambda: httpx.post(jobs, json=repeated).status_code == 200, 20, "a hit")
        httpx.post(jobs, json={"model": "echo"})
        httpx.request("PROPFIND", f"{self.api.url}/nowhere/7")
        httpx.head(f"{self.api.url}/v1/models")
        httpx.get(jobs, headers={"X-API-Key": "lfk_none"})


@pytest.fixture(scope="module")
def served(
    embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    stack = Stack(embedded_redis.url, tmp_path_factory.mktemp("metrics"))
    stack.redis.flushall()
    try:
        yield Served(stack)
    finally:
        stack.close()


def test_api_and_worker_expose_what_is_declared(served: Served) -> None:
    assert undeclared(served.front) == undeclared(served.worker) == []
    refused = {one for one in declared_for("api") if one.name == "lanefleet_api_refused_total"}
    assert missing(served.front, declared_for("api") - refused) == set()
    for text, process in ((served.front, "api"), (served.worker, "worker")):
        names = {one.name for one in METRICS if process in one.served_by}
        assert families(text).keys() <= names
        assert "_created" not in text


def test_promtool_finds_nothing(served: Served) -> None:
    assert lint(served.front) == lint(served.worker) == ""


def test_what_the_api_exposes_is_true(served: Served) -> None:
    text = served.front
    count = "lanefleet_api_request_duration_seconds_count"
    done = value(text, count, method="POST", route="/v1/jobs", status="200")
    hits = value(text, "lanefleet_api_jobs_total", lane="echo", outcome="hit")
    queued = value(text, "lanefleet_api_jobs_total", lane="echo", outcome="queued")
    assert done > JOBS
    assert hits == value(text, "lanefleet_cache_looks_total", model="echo", outcome="hit") >= 1
    assert done <= hits + queued
    assert value(text, count, route="/v1/jobs", status="422") == 1
    assert value(text, count, method="other", route="(none)", status="404") == 1
    assert value(text, count, method="HEAD", route="/v1/models", status="200") == 1
    assert value(text, "lanefleet_api_auth_total", outcome="invalid") == 1
    assert value(text, "lanefleet_api_processes") == 1
    assert value(text, "lanefleet_api_active_requests") == 1, "this scrape"
    served = value(
        text, "model_serving_requests_total", model_name="echo", status="200", endpoint="/v1/jobs"
    )
    assert served == done
    assert value(text, "model_serving_request_duration_seconds_count", model_name="echo") >= served
    assert value(text, "api_requests_total") == value(text, count)


def test_what_the_worker_exposes_is_true(served: Served) -> None:
    text = served.worker
    jobs = value(text, "lanefleet_worker_jobs_total")
    assert jobs >= JOBS
    assert value(text, "predictions_total", lane="echo", status="success") == jobs
    batches = value(text, "inference_duration_seconds_count", lane="echo")
    assert 0 < batches == value(text, "lanefleet_worker_batch_size_count") <= jobs
    assert value(text, "lanefleet_worker_batch_size_sum") == jobs
    assert value(text, "lanefleet_worker_queue_wait_seconds_count", lane="echo") == jobs
    assert value(text, "lanefleet_worker_reserved_total") == jobs
    assert 0 < value(text, "lanefleet_worker_cold_start_seconds") < 600
    assert value(text, "lanefleet_worker_outbox_entries") == 0
    assert value(text, "lanefleet_worker_device_hour_price") == 3.6
    busy = value(text, "lanefleet_worker_device_seconds_total", state="busy")
    assert value(text, "lanefleet_worker_inference_price") == pytest.approx(
        busy / 1000 / jobs, rel=0.1
    )
    by_lane = Counter(one.labels["lane"] for one in samples(text) if "lane" in one.labels)
    assert set(by_lane) == {"echo"}
    assert max(by_lane.values()) <= 32, by_lane


def test_a_thousand_workers_come_and_go_and_the_series_stay(served: Served) -> None:
    stack, api = served.stack, served.api
    api.await_samples()
    before = len(samples(scrape(f"{api.url}/metrics")))
    report = Scripts(stack.redis)
    for number in range(WORKERS_CHURNED):
        name = f"cpu-{number}@host-{number}"
        said = WorkerReport(name, number, 1, "cpu", lanes={"echo": LaneReport(loaded=True)})
        keys = (worker_key(name), WORKERS, WEIGHTS_DIGESTS)
        report.run("report_worker", keys, (name, said.dump(), 30))
        if number % 100:
            report.run("report_worker", keys, (name,))  # it leaves
    api.await_samples()
    text = scrape(f"{api.url}/metrics")
    assert undeclared(text) == []
    assert len(samples(text)) - before <= 20, "routes that this test has called"
    assert "host-" not in text


COUNTERS = ("_total", "_count", "_bucket", "_sum")


def four_processes(stack: Stack) -> ApiProcess:
    """Four imports of everything at once take a busy machine a while."""
    port = str(free_port())
    chosen = {"PORT": port, "API_WORKERS": "4", "LOG_FORMAT": "json"}
    process = stack._start(
        "api", ["-m", "api"], "echo", {f"LANEFLEET_{name}": text for name, text in chosen.items()}
    )
    url = f"http://127.0.0.1:{port}"
    api = ApiProcess(process, url, Client(url, timeout=30, retries=0))
    wait_until(api.answers, 180, "the API")
    return api


@pytest.mark.slow
def test_no_counter_goes_back_when_one_of_four_processes_is_killed(stack: Stack) -> None:
    api = four_processes(stack)
    highest: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    decreased: list[str] = []

    def look() -> str:
        try:
            text = scrape(f"{api.url}/metrics")
        except httpx.TransportError:
            return ""  # by the process that was just killed
        for one in samples(text):
            if one.name.endswith(COUNTERS):
                series = (one.name, tuple(sorted(one.labels.items())))
                if one.value < highest.get(series, 0.0):
                    decreased.append(f"{series}: {highest[series]} -> {one.value}")
                highest[series] = one.value
        return text

    done = threading.Event()
    sent = Counter[int]()

    def load() -> None:
        with httpx.Client(base_url=api.url, timeout=20) as client:
            while not done.is_set():
                sent[retried(client).status_code] += 1

    loading = threading.Thread(target=load)
    loading.start()
    try:
        wait_until(lambda: value(look(), "lanefleet_api_processes") == 4, 120, "four processes")
        for _ in range(2):
            before = value(look(), "lanefleet_api_jobs_total", outcome="queued")
            wait_until(
                lambda b=before: (
                    value(look(), "lanefleet_api_jobs_total", outcome="queued") > b + 50
                ),  # type: ignore[misc]
                120,
                "jobs",
            )
            started = events(api.process, "api_process_started")
            os.kill(started[-1]["pid"], signal.SIGKILL)
            count = len(started) + 1
            wait_until(
                lambda n=count: look() and len(events(api.process, "api_process_started")) == n,  # type: ignore[misc]
                120,
                "its successor",
            )
            wait_until(lambda: value(look(), "lanefleet_api_processes") == 4, 120, "four again")
    finally:
        done.set()
        loading.join(30)
    assert decreased == []
    assert set(sent) == {202}
    lost = 2 * 1.5 * sent[202] / 4  # a second and a half of two processes, at the very most
    wait_until(
        lambda: value(look(), "lanefleet_api_jobs_total", outcome="queued") >= sent[202] - lost,
        10,
        "what was counted",
    )
