"""What `celery inspect` and Flower say of lanes with waiting, running, scheduled, revoked jobs."""

from __future__ import annotations

from typing import Any

import httpx
from celery import Celery

from api.cli.fleet import free_port
from tests.support.lanes import LANE, RecordedLane
from tests.support.stack import Stack, wait_until


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
    wait_until(lambda: stack.waiting(LANE) == 9, 20, "the others to wait")
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

    lengths = ask("/api/queues/length").json()["active_queues"]
    assert {one["name"]: one["messages"] for one in lengths} == {LANE: stack.waiting(LANE)}
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
