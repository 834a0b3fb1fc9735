"""What a stock Celery client asks of a fleet: honoured, or refused with its reason.

The client imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import httpx
import pytest
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

from common.jobs.job import Job
from tests.support.celery_client import client, send
from tests.support.lanes import LANE, RecordedLane
from tests.support.stack import ROOT, Stack, wait_until


@pytest.mark.parametrize("name", ["gzip", "zlib", "bzip2", "lzma"])
def test_compressed_jobs_run_and_bombs_are_refused(stack: Stack, name: str) -> None:
    RecordedLane.on(stack)
    stack.worker(LANE, LANEFLEET_UNPACKED_MESSAGE_BYTES="100000")
    app = client(stack, task_compression=name)
    assert send(app, "packed").get(timeout=20) == "packed"
    with pytest.raises(Exception, match="larger than 100000 bytes once it is decompressed"):
        send(app, "a" * 200_000).get(timeout=20)


def test_limits_of_time_and_size(stack: Stack) -> None:
    RecordedLane.on(stack, max_batch=1)
    stack.worker(LANE, LANEFLEET_MAX_MESSAGE_BYTES="262144")
    app = client(stack)
    hard, soft = {"time_limit": 0.1}, {"soft_time_limit": 0.1}
    with pytest.raises(TimeLimitExceeded, match=r"its time_limit is 0.1 s"):
        send(app, "hard", hard, sleep_ms=300).get(timeout=20)
    with pytest.raises(SoftTimeLimitExceeded, match=r"its soft_time_limit is 0.1 s"):
        send(app, "soft", soft, sleep_ms=300).get(timeout=20)
    with pytest.raises(Exception, match="LANEFLEET_MAX_MESSAGE_BYTES is 262144: send large"):
        send(app, "a" * 300_000).get(timeout=20)
    in_time = send(app, "in time", {"time_limit": 10, "soft_time_limit": 5}, sleep_ms=100)
    assert in_time.get(timeout=20) == "in time"


def test_a_revoked_stamp_ends_what_is_held_and_what_comes(stack: Stack) -> None:
    lane = RecordedLane.on(stack, max_batch=1)
    stack.worker(LANE)
    app, gate = client(stack), stack.folder / "gate"
    first = send(app, "first", until=str(gate))
    wait_until(lambda: lane.executions(), 20, "the device to be busy")
    stamped = {"stamped_headers": ["batch"], "batch": "b1"}
    held = send(app, "held", stamped)
    other = send(app, "other", {"stamped_headers": ["batch"], "batch": ["b2"]})
    wait_until(lambda: stack.waiting(LANE) == 0, 20, "both to be reserved")
    (answer,) = app.control.revoke_by_stamped_headers(
        {"batch": ["b1"]}, reply=True, timeout=20, limit=1
    )
    assert "are revoked" in next(iter(answer.values()))["ok"]
    with pytest.raises(TaskRevokedError):
        held.get(timeout=20)
    later = send(app, "later", stamped)
    gate.touch()
    with pytest.raises(TaskRevokedError):
        later.get(timeout=20)
    assert first.get(timeout=20) == "first"
    assert other.get(timeout=20) == "other"
    assert not {"held", "later"} & set(lane.executions())


def test_every_ending_has_its_date(stack: Stack) -> None:
    RecordedLane.on(stack)
    app = client(stack)
    expired = send(app, "expired", {"expires": 0.01})
    revoked = send(app, "revoked")
    done = send(app, "done")
    failed = send(app, "failed", refuse="no")
    time.sleep(0.1)  # longer than the one may wait
    stack.worker(LANE)
    app.control.revoke(revoked.id)
    for one in (expired, revoked, done, failed):
        one.get(timeout=20, propagate=False)
        assert abs(one.date_done.timestamp() - time.time()) < 60, one.state


def test_celerys_own_worker_refuses_to_serve_lanes(stack: Stack) -> None:
    RecordedLane.on(stack)
    job = send(client(stack), "kept")
    command = ["celery", "-A", "common.broker:app", "worker", "-Q", LANE, "--pool", "solo"]
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, **stack.environment, "LANEFLEET_REDIS_URL": stack.redis_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "start `lanefleet worker` instead" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert stack.redis.llen(LANE) == 1
    stack.worker(LANE)
    assert job.get(timeout=20) == "kept"


def test_infer_in_a_celery_pool_gives_the_message_back(stack: Stack) -> None:
    RecordedLane.on(stack)
    app = client(stack)
    job = send(app, "kept")
    code = f"""
from common.broker import create_app
from common.settings import Settings
app = create_app({stack.redis_url!r}, Settings())
app.lanefleet_engine_factory = None  # as if it served lanes
app.Worker(pool="solo", queues=[{LANE!r}], loglevel="INFO").start()
"""
    log = stack.folder / "pool.log"
    with log.open("w") as stream:
        pool = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=stream)
    try:
        wait_until(lambda: "reject requeue=True" in log.read_text(), 30, "it to be given back")
    finally:
        pool.terminate()
        pool.wait(20)
    stack.worker(LANE)
    assert job.get(timeout=30) == "kept"


def test_the_same_id_with_another_call_runs_and_a_copy_does_not(stack: Stack) -> None:
    lane = RecordedLane.on(stack)
    stack.worker(LANE)
    app = client(stack)
    same = {"task_id": "of-my-choice"}
    assert send(app, "one", same).get(timeout=20) == "one"
    assert send(app, "one", same).get(timeout=20) == "one"
    again = send(app, "other", same)
    wait_until(lambda: lane.executions()["other"], 20, "the other call to run")
    wait_until(lambda: again.result == "other", 20, "its result")
    gate = stack.folder / "gate"
    busy = send(app, "busy", {"task_id": "twice"}, until=str(gate))
    wait_until(lambda: lane.executions()["busy"], 20, "the device to be busy")
    send(app, "next", {"task_id": "twice"})
    wait_until(lambda: not stack.waiting(LANE), 20, "the second to be met")
    gate.touch()
    assert busy.get(timeout=20) in ("busy", "next")
    wait_until(lambda: app.AsyncResult("twice").result == "next", 20, "the second's result")
    assert lane.executions() == {"one": 1, "other": 1, "busy": 1, "next": 1}


def test_a_lane_that_left_the_catalog_is_told_of_and_dropped(stack: Stack) -> None:
    RecordedLane.on(stack)
    worker = stack.worker(LANE)
    app = client(stack)
    assert send(app, "served").get(timeout=20) == "served"
    wait_until(lambda: stack.redis.sismember("lf:lanes", LANE), 20, "its lane to be noted")
    worker.stop()
    left = [send(app, f"n{n}") for n in range(5)]
    delayed = stack.publish([Job(LANE, "ours")])
    catalog = stack.folder / "other.yaml"
    catalog.write_text("models:\n  echo:\n    handler: echo\n")
    api = stack.api("echo", LANEFLEET_CATALOG=str(catalog))

    def ready() -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{api.url}/ready", timeout=10).json()
        return found

    wait_until(lambda: ready()["lanes_abandoned"] == [LANE], 30, "it to be told of")
    assert "lane_abandoned" in api.process.output()
    lane = api.client.lanes()[LANE]
    assert (lane["waiting"], lane["abandoned"]) == (6, True)
    shown = subprocess.run(
        [sys.executable, "-m", "api.cli.main", "status", "--url", api.url],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert f"lanefleet lanes drop {LANE}" in shown.stdout.replace("\n", " ")
    assert httpx.post(f"{api.url}/v1/lanes/echo/drop", timeout=10).status_code == 409
    for name in ("ech0", "lf:lanes", "_kombu.binding.celery.pidbox"):
        unknown = httpx.post(f"{api.url}/v1/lanes/{name}/drop", timeout=10)
        assert unknown.status_code == 404
        assert "no worker ever served it" in unknown.json()["detail"]
    drop = ("-m", "api.cli.main", "lanes", "drop", LANE)
    dropped = subprocess.run(
        [sys.executable, *drop, "--yes", "--json", "--url", api.url],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(dropped.stdout) == {"jobs": 6}
    for one in left:
        with pytest.raises(TaskRevokedError):
            one.get(timeout=20)
    assert stack.record(delayed[0]).reason == "lane_dropped"  # type: ignore[union-attr]
    wait_until(lambda: not ready()["lanes_abandoned"], 30, "it to be forgotten")
    assert api.client.drop_lane(LANE) == 0, "known, as it was served once"
    stack.redis.srem("lf:lanes", LANE)
    stack.publish([Job(LANE, "never served")])
    assert api.client.drop_lane(LANE) == 1, "known by its jobs alone"
