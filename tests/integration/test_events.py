"""Celery's events, as a stock receiver and its `State` understand them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from celery import Celery

from api.cli.fleet import free_port
from common.jobs.job import Job
from tests.support.stack import Stack, wait_until

WANTED = ["task-received", "task-started", "task-succeeded"]


@contextmanager
def watching(app: Celery) -> Iterator[list[dict[str, Any]]]:
    """The task events that a stock receiver hears, once it hears the worker's heartbeat."""
    heard: list[dict[str, Any]] = []
    alive, stop = threading.Event(), threading.Event()

    def note(event: dict[str, Any]) -> None:
        receiver.should_stop = stop.is_set()
        if event["type"].startswith("worker-"):
            alive.set()
        elif event["type"].startswith("task-"):
            heard.append(event)

    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": note})

        def listen() -> None:
            while not stop.is_set():
                try:
                    receiver.capture(limit=None, timeout=1)
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        app.control.enable_events()
        try:
            assert alive.wait(20), "no heartbeat"
            yield heard
        finally:
            stop.set()
            thread.join(10)


def by_job(heard: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Event types per job, in the order of their clocks."""
    found: dict[str, list[str]] = {}
    for event in sorted(heard, key=lambda event: event["clock"]):
        found.setdefault(event["uuid"], []).append(event["type"])
    return found


def test_every_job_of_a_batch_has_its_events(stack: Stack) -> None:
    worker = stack.worker("echo")
    app = Celery("watcher", broker=stack.redis_url, backend=stack.redis_url)
    jobs = [Job("echo", n) for n in range(20)]
    fails = Job("echo", "no", params={"sleep_ms": 'a "quoted" %s'})
    late = Job("echo", "late", deadline_ms=1)
    with watching(app) as heard:
        stack.publish([*jobs, fails])
        wait_until(lambda: len(by_job(heard)) == 21, 30, "all events")
        wait_until(lambda: all(len(one) == 3 for one in by_job(heard).values()), 20, "the rest")
        stack.publish([late])  # set aside before a worker ever holds it: no events
        wait_until(lambda: stack.states([late.id]) == {"expired": 1}, 20, "the expiry")
    found = by_job(heard)
    assert {job.id: found[job.id] for job in jobs} == {job.id: WANTED for job in jobs}
    assert found[fails.id] == ["task-received", "task-started", "task-failed"]
    assert len({event["clock"] for event in heard}) == len(heard)
    state = app.events.State()
    for event in heard:
        state.event(event)
    known = dict(state.tasks_by_time())
    assert {known[job.id].state for job in jobs} == {"SUCCESS"}
    assert known[fails.id].state == "FAILURE"
    assert "sleep_ms" in known[fails.id].exception
    task = known[jobs[0].id]
    assert (task.name, task.kwargs, task.retries) == ("infer", "{'model': 'echo'}", 0)
    assert task.received <= task.started <= task.succeeded
    assert task.worker.hostname.endswith(f"-{worker.pid}@{task.worker.hostname.split('@')[1]}")


def test_above_the_set_rate_events_are_sampled_and_say_so(stack: Stack) -> None:
    port = free_port()
    stack.worker("echo", LANEFLEET_EVENTS_PER_SECOND="5", LANEFLEET_WORKER_HEALTH_PORT=str(port))
    app = Celery("watcher", broker=stack.redis_url, backend=stack.redis_url)
    with watching(app) as heard:
        ids = stack.publish([Job("echo", n) for n in range(200)])
        wait_until(lambda: stack.states(ids) == {"succeeded": 200}, 20, "the jobs")
        wait_until(lambda: len(heard) >= 15, 20, "some events")
    (stats,) = (app.control.inspect(timeout=20, limit=1).stats() or {}).values()
    events = stats["lanefleet"]["events"]
    assert events["jobs_sent"] + events["jobs_sampled_out"] == 200
    assert events["jobs_sent"] <= 15, "5 in each second that the jobs took"
    metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    left_out = events["jobs_sampled_out"]
    assert f'lanefleet_worker_event_jobs_total{{sent="no"}} {left_out}.0' in metrics
