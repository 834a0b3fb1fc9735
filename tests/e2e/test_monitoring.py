"""A real Prometheus and Alertmanager over a fleet: expressions have series, an alert arrives.

The programs are Debian's (prometheus, prometheus-alertmanager). Intervals and the times that an
alert must hold are shortened; expressions, labels and routes are the shipped ones.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from api.cli.fleet import free_port
from api.client import Client
from common.redis.embedded_server import RedisServer
from tests.support import monitoring
from tests.support.monitoring import EXPORTED_BY_OTHERS, Expression
from tests.support.receiver import HOST, listening
from tests.support.receiver import Receiver as Hooks
from tests.support.stack import ROOT, ApiProcess, Process, Stack, running_redis, wait_until

pytestmark = pytest.mark.slow

PROMETHEUS = shutil.which("prometheus")
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
CATALOG = """
models:
  echo: {handler: echo, input: json, max_batch: 64, cache_seconds: 60}
  unserved: {handler: echo, input: json}
  crowded: {handler: echo, input: json}
  drifts@1: {handler: "tests.support.versions:Version", task: classify, shadow: drifts@2}
  drifts@2: {handler: "tests.support.versions:Version", task: classify}
"""
NEEDS_A_GPU = re.compile(r"lanefleet_worker_device_(utilization_ratio|memory_\w+|power_watts)")
NOT_HERE = {
    "overview: CPU per core": "node-exporter",
    "overview: Network bytes": "node-exporter",
    "overview: Memory in use": "node-exporter",
    "device: GPU utilisation heat map": "a GPU",
    "device: Device memory": "a GPU",
    "device: Power": "a GPU",
}
"""Panels that stay empty on a machine without these."""


class Receiver:
    """A webhook that keeps the alerts it gets."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.alerts += json.loads(text)["alerts"]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"

    def firing(self, name: str) -> list[dict[str, Any]]:
        return [
            one
            for one in self.alerts
            if one["labels"]["alertname"] == name and one["status"] == "firing"
        ]


@dataclass
class Watch:
    """A running fleet, and Prometheus and Alertmanager over it."""

    stack: Stack
    api: ApiProcess
    key: str
    url: str
    receiver: Receiver
    webhooks: str
    """Where jobs' ends are told."""
    stop: threading.Event = field(default_factory=threading.Event)
    failed: Exception | None = None
    """Of the batches."""

    def query(self, text: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": text}, timeout=30)
        assert answer.is_success, (text, answer.text)
        found = answer.json()["data"]
        if found["resultType"] == "scalar":
            return [found]
        return list(found["result"])

    def call(self, **job: Any) -> httpx.Response:
        headers = {"X-API-Key": self.key}
        body = {"model": "echo", **job}
        if body["model"] == "echo":
            headers["Prefer"] = "wait=5"
        return httpx.post(f"{self.api.url}/v1/jobs", headers=headers, json=body, timeout=30)

    def load(self) -> None:
        """Jobs of every kind, until it is told to stop."""
        number = 0
        while not self.stop.wait(0.02):
            number += 1
            self.call(input=number, params={"sleep_ms": 20})
            self.call(input="the same", webhook=self.webhooks)
            self.call(model="crowded", input=number)
            self.call(model="drifts@1", input=number)
            if number % 10 == 0:
                self.call(input=number, params={"fail": "on purpose"})
                self.call(model="unknown", input=number)
            if number % 50 == 1 and self.failed is None:
                try:
                    self.batch()
                except Exception as exc:
                    self.failed = exc

    def batch(self) -> None:
        """A batch whose first line is done at once, while the second waits for a worker."""
        lines = (
            {"custom_id": model, "method": "POST", "url": "/v1/jobs",
             "body": {"model": model, "input": 1}}
            for model in ("echo", "unserved")
        )  # fmt: skip
        with Client(self.api.url, api_key=self.key) as client:
            file = client.create_file(io.BytesIO("\n".join(map(json.dumps, lines)).encode()))
            client.create_batch(file["id"], completion_window="5s")


def _prometheus_files(
    folder: Path, targets: Mapping[str, str], key: str, alertmanager: int
) -> Path:
    """The shipped configuration with this fleet's addresses, and shorter times."""
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    jobs = [job for job in config["scrape_configs"] if job["job_name"] in targets]
    assert len(jobs) == len(targets) == 3
    for job in jobs:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
        if "authorization" in job:
            (folder / "key").write_text(key)
            job["authorization"] = {"credentials_file": str(folder / "key")}
    config["scrape_configs"] = jobs
    config["alerting"]["alertmanagers"] = [
        {"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}
    ]
    (folder / "rules").mkdir()
    for path in monitoring.RULES:
        text = re.sub(r"^(\s+for:) \w+$", r"\1 2s", path.read_text(), flags=re.MULTILINE)
        (folder / "rules" / path.name).write_text(text)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


def _alertmanager_file(folder: Path, receiver: str) -> Path:
    text = (ROOT / "deploy/alertmanager/alertmanager.yml").read_text()
    text = text.replace("url_file: /run/secrets/alert_webhook_url", f"url: {receiver}")
    text = re.sub(r"(group_wait:|group_interval:) \w+", r"\1 1s", text)
    (folder / "alertmanager.yml").write_text(text)
    return folder / "alertmanager.yml"


def _start(name: str, folder: Path, command: list[str]) -> Process:
    return Process(command, dict(os.environ), folder / f"{name}.log", folder).start()


def _key(stack: Stack) -> str:
    """A key that may do everything, made by the command line."""
    words = ["keys", "create", "watch", "--tenant", "acme", "--scopes", "admin"]
    done = subprocess.run(
        [sys.executable, "-m", "api.cli.main", *words],
        env={**os.environ, "LANEFLEET_REDIS_URL": stack.redis_url},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return re.findall(r"lfk_\w+", done.stdout)[0]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(
        tmp_path_factory.mktemp("redis"), "embedded", "--maxmemory", "512mb"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def watch(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    if PROMETHEUS is None or ALERTMANAGER is None:
        pytest.skip("no prometheus or alertmanager on PATH (Debian has both)")
    folder = tmp_path_factory.mktemp("watch")
    (folder / "models.yaml").write_text(CATALOG)
    stack = Stack(
        redis_server.url,
        folder,
        {
            "LANEFLEET_CATALOG": str(folder / "models.yaml"),
            "LANEFLEET_DEVICE_HOUR_PRICE": "3.6",
            "LANEFLEET_MAX_BACKLOG": "5",
            "LANEFLEET_FILES_URL": f"file://{folder}/files",
            "LANEFLEET_TENANT_BATCHES": "1000",
            "LANEFLEET_WEBHOOK_ALLOW": HOST,
        },
    )
    ending = ExitStack()
    hooks = ending.enter_context(listening(Hooks()))
    receiver, worker, port, alertmanager = Receiver(), free_port(), free_port(), free_port()
    courier = free_port()
    api = stack.api("")
    stack.worker("echo,drifts@1", LANEFLEET_WORKER_HEALTH_PORT=str(worker))
    stack.courier("", LANEFLEET_WORKER_HEALTH_PORT=str(courier))
    key = _key(stack)
    targets = {
        "lanefleet-api": api.url.removeprefix("http://"),
        "lanefleet-worker": f"127.0.0.1:{worker}",
        "lanefleet-courier": f"127.0.0.1:{courier}",
    }
    config = _prometheus_files(folder, targets, key, alertmanager)
    programs = [
        _start("alertmanager", folder, [
            ALERTMANAGER, f"--config.file={_alertmanager_file(folder, receiver.url)}",
            f"--storage.path={folder / 'alerts'}", f"--web.listen-address=127.0.0.1:{alertmanager}",
            "--cluster.listen-address=",
        ]),
        _start("prometheus", folder, [
            PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]),
    ]  # fmt: skip
    found = Watch(stack, api, key, f"http://127.0.0.1:{port}", receiver, hooks.url)
    loader = threading.Thread(target=found.load)
    try:
        wait_until(lambda: _is_ready(found.url, programs), 60, "Prometheus")
        loader.start()
        yield found
    finally:
        found.stop.set()
        if loader.ident:
            loader.join()
        for program in programs:
            program.kill()
        receiver.server.shutdown()
        receiver.server.server_close()
        stack.close()
        ending.close()


def _is_ready(url: str, programs: list[Process]) -> bool:
    for program in programs:
        assert program.alive, program.output()
    try:
        return httpx.get(f"{url}/-/ready", timeout=2).is_success
    except httpx.HTTPError:
        return False


def test_every_target_is_scraped(watch: Watch) -> None:
    wait_until(lambda: len(watch.query("up == 1")) == 3, 60, "three targets")
    assert watch.failed is None


def _names() -> set[str]:
    return {
        selector.name
        for one in monitoring.expressions()
        for selector in monitoring.selectors(one.text)
    }


def test_every_series_that_is_asked_for_exists_under_load(watch: Watch) -> None:
    wanted = {
        name
        for name in _names()
        if not NEEDS_A_GPU.fullmatch(name) and (name == "up" or name not in EXPORTED_BY_OTHERS)
    }

    def missing() -> set[str]:
        there = {one["metric"]["__name__"] for one in watch.query('{__name__!=""}')}
        return wanted - there

    wait_until(lambda: not missing(), 90, f"series, {len(wanted)} in all; missing {missing()}")


def _empty(watch: Watch, expressions: list[Expression]) -> list[Expression]:
    return [one for one in expressions if not watch.query(one.text)]


def test_no_panel_and_no_recorded_series_is_empty_under_load(watch: Watch) -> None:
    alerts = {rule["alert"] for rule in monitoring.rules() if "alert" in rule}
    asked = [
        one
        for one in monitoring.expressions()
        if one.where not in alerts and one.where not in NOT_HERE
    ]
    assert len(asked) > 60
    left = asked

    def all_found() -> bool:
        nonlocal left
        left = _empty(watch, left)
        return not left

    wait_until(all_found, 120, "panels with data") if left else None
    assert left == []


def test_every_alert_can_be_evaluated(watch: Watch) -> None:
    def health() -> dict[str, str]:
        answer = httpx.get(f"{watch.url}/api/v1/rules", timeout=10).json()["data"]["groups"]
        return {rule["name"]: rule["health"] for group in answer for rule in group["rules"]}

    wait_until(lambda: set(health().values()) == {"ok"}, 60, "healthy rules")
    assert health().keys() == {rule.get("alert") or rule["record"] for rule in monitoring.rules()}


def test_an_alert_reaches_a_webhook_and_says_what_it_is(watch: Watch) -> None:
    """Jobs of a lane that no worker serves."""
    assert watch.call(model="unserved", input="wait").status_code == 202

    def alerts() -> list[dict[str, Any]]:
        fired = watch.receiver.firing("LaneWithoutWorkers")
        return [one for one in fired if one["labels"]["lane"] == "unserved"]

    alert = wait_until(alerts, 60, "an alert at the webhook")[0]
    assert alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["summary"] == "Lane unserved has 1 jobs and no worker."
    assert alert["annotations"]["runbook_url"] == "docs/runbook.md#lanewithoutworkers"
