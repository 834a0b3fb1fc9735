"""Where the time goes, as the workers' reports, Prometheus and `lanefleet stages` say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from api.cli.fleet import free_port
from api.cli.main import app
from common.jobs.job import Job
from tests.support.stack import Stack, wait_until

JOBS = 200


def samples(text: str) -> dict[tuple[str, str], float]:
    """Metric and stage, state or lane -> value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            which = labels.get("stage") or labels.get("state") or labels.get("lane") or ""
            if labels.get("le", "+Inf") == "+Inf":
                found[sample.name, which] = sample.value
    return found


@pytest.fixture
def paced(stack: Stack) -> str:
    """A catalog with a model that takes 20 ms a batch; returns where its worker's metrics are."""
    model = {
        "handler": "tests.support.handlers:Paced",
        "max_batch": 16,
        "options": {"batch_ms": 20},
    }
    path = Path(stack.folder) / "models.yaml"
    path.write_text(yaml.safe_dump({"models": {"paced": model}}))
    port = str(free_port())
    stack.environment.update(LANEFLEET_CATALOG=str(path), LANEFLEET_WORKER_HEALTH_PORT=port)
    return f"http://127.0.0.1:{port}/metrics"


def test_every_stage_of_every_job_is_counted_and_shown(stack: Stack, paced: str) -> None:
    api = stack.api("")
    stack.worker("")
    ids = stack.publish([Job("paced", number) for number in range(JOBS)])
    wait_until(lambda: stack.states(ids) == {"succeeded": JOBS}, 30, "all jobs")

    def counted() -> dict[str, Any] | None:
        (report,) = api.client.workers()
        finish = report["lanes"]["paced"]["stages"].get("finish")
        return report if finish and report["finished"] == JOBS else None

    report = wait_until(counted, 20, "the worker's report")
    lane, device = report["lanes"]["paced"], report["device_time"]
    batches = sum(lane["batches"].values())
    for stage in ("queue", "hold", "decode", "device_wait"):
        assert lane["stages"][stage]["count"] == JOBS, stage
    for stage in ("infer", "publish", "encode", "finish"):
        assert lane["stages"][stage]["count"] == batches, stage
    assert lane["stages"]["infer"]["seconds"] >= 0.02 * batches
    assert lane["stages"]["device_wait"]["seconds"] > 0.02 * 16, "later ones wait for the first"
    assert lane["jobs"] == JOBS <= lane["room"]
    assert device["busy"] == pytest.approx(lane["stages"]["infer"]["seconds"], rel=0.05)
    assert sum(device["idle"].values()) + device["busy"] + device["other"] == pytest.approx(
        device["seconds"], rel=0.01
    )

    found = samples(httpx.get(paced, timeout=20).text)
    assert found["lanefleet_worker_stage_seconds_count", "device_wait"] == JOBS
    assert found["lanefleet_worker_stage_seconds_count", "publish"] == batches
    assert found["lanefleet_worker_queue_wait_seconds_count", "paced"] == JOBS
    assert found["inference_duration_seconds_count", "paced"] == batches
    assert found["lanefleet_worker_batch_size_count", ""] == batches
    assert found["lanefleet_worker_device_seconds_total", "busy"] >= 0.02 * batches

    shown = CliRunner().invoke(app, ["stages", "--url", api.url])
    assert "device_wait" in shown.stdout
    assert "the device" in shown.stdout
    told = CliRunner().invoke(app, ["stages", "--url", api.url, "--over", "0.1", "--json"])
    assert "sentence" in json.loads(told.stdout)[0]
