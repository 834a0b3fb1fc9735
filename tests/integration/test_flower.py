"""What `celery inspect` and Flower say of lanes with waiting, running, scheduled, revoked jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import httpx
import pytest
from celery import Celery

from api.cli.fleet import free_port
from common.jobs.enqueue import publish_many
from common.jobs.job import Job
from common.redis.keys import OVER_TOTALS, LaneKeys
from tests.support.lanes import LANE, RecordedLane
from tests.support.stack import ROOT, Stack, wait_until


def start_flower(stack: Stack) -> str:
    """As the README's command does; its address."""
    port = free_port()
    command = ["-m", "celery", "-A", "common.broker:app", "flower"]
    options = [f"--port={port}", "--address=127.0.0.1"]
    environment = {"FLOWER_UNAUTHENTICATED_API": "true"}
    stack._start("flower", [*command, *options], LANE, environment)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return LANE in str(httpx.get(f"{url}/api/workers?refresh=1", timeout=10).text)
        except httpx.HTTPError:
            return False

    wait_until(answers, 60, "Flower to know the worker")
    return url


def test_flower_and_inspect_know_every_job(stack: Stack) -> None:
    lane = RecordedLane.on(stack, max_batch=1)
    worker = stack.worker(LANE)
    url, gate = start_flower(stack), stack.folder / "gate"
    app = Celery("producer", broker=stack.redis_url, backend=stack.redis_url)

    def send(value: str, countdown: float | None = None, **params: Any) -> str:
        kwargs = {"model": LANE, "input": value, "params": params}
        sent = app.send_task("infer", kwargs=kwargs, queue=LANE, countdown=countdown)
        return str(sent.id)

    def ask(path: str) -> httpx.Response:
        return httpx.get(f"{url}{path}", timeout=20)

    done = send("done")
    assert app.AsyncResult(done).get(timeout=20) == "done"
    scheduled = send("scheduled", countdown=600)
    inspect = app.control.inspect(timeout=20, limit=1)
    wait_until(lambda: (inspect.scheduled() or {}).popitem()[1], 20, "one to be parked")
    running = send("running", until=str(gate))
    wait_until(lambda: lane.executions()["running"], 20, "it to run")
    reserved = send("reserved")
    wait_until(lambda: stack.states([reserved]) == {"running": 1}, 20, "it to be reserved")
    waiting = [send(f"waiting {n}") for n in range(10)]
    # The worker looks one ahead, or two where reserving takes longer than running.
    wait_until(lambda: stack.waiting(LANE) in (9, 10), 20, "the others to wait")
    app.control.revoke(waiting[0])
    revoked = waiting[0]

    (node,) = inspect.ping()
    assert [one["id"] for one in inspect.active()[node]] == [running]
    assert reserved in {one["id"] for one in inspect.reserved()[node]}
    ((parked),) = inspect.scheduled()[node]
    assert (parked["request"]["id"], parked["request"]["kwargs"]) == (scheduled, {"model": LANE})
    assert [one["name"] for one in inspect.active_queues()[node]] == [LANE]
    assert [one.split()[0] for one in inspect.registered()[node]] == ["infer"]
    states = inspect.query_task(running, reserved, scheduled, waiting[-1], done)[node]
    assert {job: state for job, (state, _info) in states.items()} == {
        running: "active",
        reserved: "reserved",
        scheduled: "scheduled",
    }
    assert revoked in inspect.revoked()[node]

    publish_many(stack.redis, [Job(LANE, f"acme {n}", tenant="acme") for n in range(20)], window=2)

    def length() -> dict[str, int]:
        found = ask("/api/queues/length").json()["active_queues"]
        return {one["name"]: one["messages"] for one in found}

    def beside() -> int:
        over = stack.redis.hmget(LaneKeys.of(LANE).over, OVER_TOTALS)
        return sum(int(count or 0) for count in over)  # type: ignore[union-attr]

    assert beside() > 0, "a tenant's jobs over its window wait beside the lists"
    wait_until(lambda: length() == {LANE: stack.waiting(LANE) + beside()}, 20, "Flower's length")
    told = wait_until(
        lambda: (found := ask(f"/api/task/info/{running}")).is_success and found.json(),
        20,
        "Flower to know what runs",
    )
    assert (told["state"], told["worker"]) == ("STARTED", node)
    assert ask(f"/api/task/result/{done}").json()["result"] == "done"
    assert ask(f"/api/task/result/{running}").json()["state"] == "PENDING"
    assert ask(f"/api/task/result/{revoked}").json()["state"] == "REVOKED"

    body = {"kwargs": {"model": LANE, "input": "by flower"}}
    applied = httpx.post(f"{url}/api/task/async-apply/infer", json=body, timeout=20).json()
    nowhere = httpx.post(f"{url}/api/task/async-apply/infer", json={"kwargs": {}}, timeout=20)
    assert nowhere.status_code == 500
    httpx.post(f"{url}/api/task/revoke/{waiting[1]}", timeout=20).raise_for_status()
    httpx.post(f"{url}/api/task/abort/{waiting[2]}", timeout=20).raise_for_status()
    gate.touch()
    assert app.AsyncResult(applied["task-id"]).get(timeout=30) == "by flower"
    assert app.AsyncResult(waiting[-1]).get(timeout=30) == "waiting 9"
    for one in (waiting[1], waiting[2]):
        wait_until(lambda one=one: app.AsyncResult(one).state == "REVOKED", 20, "its revoke")
    ended = wait_until(
        lambda: (one := ask(f"/api/task/info/{running}").json())["state"] == "SUCCESS" and one,
        20,
        "Flower to hear of its end",
    )
    assert ended["received"] <= ended["started"]
    assert ask(f"/api/task/info/{waiting[3]}").json()["state"] == "SUCCESS"
    assert worker.alive


def celery_command(stack: Stack, *words: str) -> list[str]:
    """The lines that `celery` prints, as an operator calls it."""
    ran = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "common.broker:app", *words],
        env={**os.environ, **stack.environment, "LANEFLEET_REDIS_URL": stack.redis_url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return ran.stdout.splitlines()


@pytest.mark.slow
def test_celery_s_own_commands_show_lanes_and_jobs_as_they_are(stack: Stack) -> None:
    RecordedLane.on(stack, LANEFLEET_MAX_ATTEMPTS="1")
    for _ in range(2):
        stack.worker(LANE)
    nodes = {one.worker for one in stack.reports()}
    status = celery_command(stack, "status", "--timeout", "20")
    assert {line.split()[1].rstrip(":") for line in status if ": OK" in line} == nodes
    queues = celery_command(stack, "inspect", "active_queues", "--timeout", "20")
    assert sum(f"{{'name': '{LANE}'" in line for line in queues) == len(nodes)

    words = ["-m", "celery", "-A", "common.broker:app", "events", "--dump"]
    dump = stack._start("events", words, LANE, {})
    wait_until(lambda: "heartbeat" in dump.output(), 60, "events")
    app = Celery("producer", broker=stack.redis_url, backend=stack.redis_url)
    app.control.enable_events(reply=True, timeout=20, limit=2)

    def send(value: str, **params: Any) -> str:
        kwargs = {"model": LANE, "input": value, "params": params}
        return str(app.send_task("infer", kwargs=kwargs, queue=LANE).id)

    done, failed = send("done"), send("failed", fail="no")
    assert app.AsyncResult(done).get(timeout=30) == "done"
    for job, last in ((done, "succeeded"), (failed, "failed")):
        for state in ("received", "started", last):
            told = f"{state}: infer({job})" if state == "received" else f"{state}: "
            wait_until(
                lambda told=told, job=job: any(
                    told in line and job in line for line in dump.output().splitlines()
                ),
                30,
                f"{job} {state}",
            )
    assert celery_command(stack, "result", done)[0] == "done"
