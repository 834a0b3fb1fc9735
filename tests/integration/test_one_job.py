"""One job, end to end, over sockets: uvicorn, a Celery worker process and a real Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from celery import Celery

from common.jobs.job import Job
from common.redis.embedded_server import start_server
from tests.support.stack import (
    DATA,
    REDIS_KINDS,
    ROOT,
    Stack,
    redis_binary,
    running_redis,
    wait_until,
)


@pytest.mark.parametrize("kind", REDIS_KINDS)
def test_a_job_goes_from_http_to_a_result(kind: str, tmp_path: Path) -> None:
    with running_redis(tmp_path, kind) as server:
        stack = Stack(server.url, tmp_path)
        try:
            stack.worker("echo")
            api = stack.api("echo")
            job = api.client.submit("echo", {"hello": "world"}, wait=10)
            assert job["state"] == "succeeded"
            assert job["result"]["length"] == 17
            assert job["attempts"] == 1
            assert api.client.get(job["id"])["result"] == job["result"]
        finally:
            stack.close()


def test_a_plain_celery_client_gets_its_result(stack: Stack) -> None:
    stack.worker("echo")
    plain = Celery("somebody-else", broker=stack.redis_url, backend=stack.redis_url)
    sent = plain.send_task("infer", kwargs={"model": "echo", "input": "hi"}, queue="echo")
    assert sent.get(timeout=10)["length"] == 2
    urgent = plain.send_task("infer", args=["echo", "hey"], queue="echo", priority=9)
    assert urgent.get(timeout=10)["length"] == 3


def test_a_plain_celery_client_sees_a_failure_as_an_exception(stack: Stack) -> None:
    stack.worker("echo")
    plain = Celery("somebody-else", broker=stack.redis_url, backend=stack.redis_url)
    sent = plain.send_task("infer", kwargs={"model": "echo"}, queue="echo")
    with pytest.raises(Exception, match="has no `input`"):
        sent.get(timeout=10)


def test_an_idle_worker_answers_within_milliseconds(stack: Stack) -> None:
    stack.worker("echo")
    api = stack.api("echo")
    times = []
    for _ in range(20):
        began = time.monotonic()
        assert api.client.submit("echo", "x", wait=5)["state"] == "succeeded"
        times.append(time.monotonic() - began)
    # A worker that is not told looks again after a second.
    assert sorted(times)[len(times) // 4] < 0.9


def test_a_get_with_wait_returns_as_soon_as_the_job_is_done(stack: Stack) -> None:
    api = stack.api("echo")
    job = api.client.submit("echo", "x")
    assert job["state"] == "queued"
    stack.worker("echo")
    assert api.client.get(job["id"], wait=20)["state"] == "succeeded"


def test_priorities_are_served_in_order_and_the_last_is_not_starved(stack: Stack) -> None:
    order = [9, 6, 3, 0]
    ids = stack.publish(
        [Job("echo", f"{p}-{n}", {"sleep_ms": 1}, priority=p) for p in order for n in range(64)]
    )
    stack.worker("echo", LANEFLEET_CATALOG=_small_batches(stack))
    wait_until(lambda: stack.states(ids).get("succeeded") == len(ids), 30, "all done")
    started = {job_id: stack.record(job_id).started_ms for job_id in ids}  # type: ignore[union-attr]
    by_band = {
        p: sorted(started[i] for i in ids[n * 64 : n * 64 + 64]) for n, p in enumerate(order)
    }
    assert by_band[0][32] < by_band[3][32] < by_band[6][32] < by_band[9][32]
    assert by_band[9][0] < by_band[0][-1], "the lowest band got its share before band 0 was empty"


def _small_batches(stack: Stack) -> str:
    path = stack.folder / "models.yaml"
    path.write_text("models:\n  echo:\n    handler: echo\n    max_batch: 8\n")
    return str(path)


def test_celery_inspect_sees_the_worker_and_its_jobs(stack: Stack) -> None:
    worker = stack.worker("echo")
    (running,) = stack.publish([Job("echo", "slow", {"sleep_ms": 8000})])
    wait_until(lambda: (r := stack.record(running)) and r.state == "running", 20, "running")
    waiting = stack.publish([Job("echo", "next") for _ in range(3)])
    wait_until(lambda: stack.states(waiting).get("running") == 3, 20, "reserved")
    app = Celery("watcher", broker=stack.redis_url, backend=stack.redis_url)
    inspect = app.control.inspect(timeout=20, limit=1)
    (name,) = inspect.ping()
    assert str(worker.pid) in name
    assert [one["id"] for one in inspect.active()[name]] == [running]
    assert {one["id"] for one in inspect.reserved()[name]} == set(waiting)
    state, info = inspect.query_task(running)[name][running]
    assert (state, info["delivery_info"]["routing_key"]) == ("active", "echo")
    assert inspect.stats()[name]["lanefleet"]["lanes"]["echo"]["in_hand"] == 4


def test_celery_command_line_pings_the_worker(stack: Stack) -> None:
    stack.worker("echo")
    ping = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "common.broker", "inspect", "ping", "-t", "5"],
        env={**os.environ, "LANEFLEET_REDIS_URL": stack.redis_url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pong" in ping.stdout


def test_sigterm_ends_worker_and_api_with_status_zero(stack: Stack) -> None:
    worker, api = stack.worker("echo"), stack.api("echo")
    assert worker.stop() == 0
    assert api.process.stop() == 0


def test_the_embedded_redis_dies_with_its_parent_even_on_sigkill(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\n"
        "from common.redis.embedded_server import start_server\n"
        "print(start_server(pathlib.Path(sys.argv[1])).url, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert parent.stdout is not None
    client = redis.Redis.from_url(parent.stdout.readline().decode().strip())
    client.set("kept", "yes")
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def gone() -> bool:
        try:
            return not client.ping()
        except redis.ConnectionError:
            return True

    wait_until(gone, 20, "the server to end")
    again = start_server(tmp_path)
    try:
        assert redis.Redis.from_url(again.url).get("kept") == b"yes", "its data outlived it"
    finally:
        again.stop()


def test_a_script_that_the_server_forgot_is_loaded_again(stack: Stack) -> None:
    stack.worker("echo")
    first = stack.publish([Job("echo", 1)])
    wait_until(lambda: stack.states(first).get("succeeded"), 20, "the first job")
    stack.redis.script_flush()
    second = stack.publish([Job("echo", 2)])
    wait_until(lambda: stack.states(second).get("succeeded"), 20, "the second job")


def test_models_and_results_say_when_weights_are_random(stack: Stack) -> None:
    api = stack.api("resnet50,echo")
    weights = {model["name"]: model["weights"] for model in api.client.models()}
    assert weights == {"resnet50": "random", "echo": "none"}
    stack.worker("resnet50")
    job = api.client.submit_file("resnet50", DATA / "rocket.jpg", wait=60)
    assert job["result"]["weights"] == "random"
    assert len(job["result"]["labels"]) == 5
    (model, _) = sorted(api.client.models(), key=lambda one: not one["loaded_by"])
    assert model["name"] == "resnet50"


def test_redis_binaries_are_named_when_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert redis_binary("embedded")[1] == "embedded Valkey"
