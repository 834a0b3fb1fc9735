"""Labels: a pipeline finds, cancels and retries its own jobs by them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from api.cli import app
from api.client import ApiError, Client, Selected
from common.redis.embedded_server import RedisServer
from tests.support.stack import ApiProcess, Stack, wait_until


@pytest.fixture(scope="module")
def stack(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    environment = {"LANEFLEET_MAX_ATTEMPTS": "1"}
    made = Stack(embedded_redis.url, tmp_path_factory.mktemp("labels"), environment)
    made.redis.flushall()
    yield made
    made.close()


@pytest.fixture(scope="module")
def api(stack: Stack) -> ApiProcess:
    stack.worker("echo")
    return stack.api("echo,minilm")


@pytest.fixture
def client(api: ApiProcess) -> Iterator[Client]:
    with Client(api.url) as made:
        yield made


def submit_some(client: Client, run: str, count: int = 7) -> list[str]:
    """Jobs that nobody runs."""
    jobs = [client.submit("minilm", f"{run} {n}", labels={"run": run}) for n in range(count)]
    return [job["id"] for job in jobs]


def test_jobs_are_listed_and_found_by_labels(client: Client) -> None:
    mine = submit_some(client, "listed")
    client.submit("minilm", "another", labels={"run": "other", "by": "me"})
    page = client.list_jobs(labels={"run": "listed"})
    assert [job["id"] for job in page["jobs"]] == mine[::-1]
    assert page["jobs"][0]["labels"] == {"run": "listed"}
    assert client.list_jobs(labels={"run": "listed", "by": "me"})["jobs"] == []
    assert len(client.list_jobs(labels={"run": "other", "by": "me"})["jobs"]) == 1


def test_a_job_shows_its_labels_in_every_state(client: Client) -> None:
    labels = {"run": "shown", "by": "me"}
    waiting = client.submit("minilm", "waits", labels=labels)["id"]
    assert client.get(waiting)["labels"] == labels
    assert client.cancel(waiting)["labels"] == labels
    done = client.submit("echo", "done", labels=labels, wait=20)["id"]
    assert client.get(done, wait=20)["labels"] == labels
    dead = client.submit("echo", 1, params={"fail": "on purpose"}, labels=labels)["id"]
    assert client.wait(dead, 60)["labels"] == labels
    assert client.retry(dead)["labels"] == labels
    assert "labels" not in client.get(client.submit("minilm", "plain")["id"])


def test_the_command_labels_what_it_submits_and_shows_it(client: Client, api: ApiProcess) -> None:
    typed = ["jobs", "submit", "echo", "hello", "--label", "run=cli", "--label", "by=me"]
    done = CliRunner().invoke(app, [*typed, "--url", api.url])
    assert (done.exit_code, "by=me run=cli" in done.output) == (0, True), done.output
    listed = CliRunner().invoke(
        app, ["jobs", "list", "--label", "run=cli", "--json", "--url", api.url]
    )
    (job,) = json.loads(listed.stdout)["jobs"]
    assert job["labels"] == {"by": "me", "run": "cli"}
    wrong = CliRunner().invoke(app, ["jobs", "submit", "echo", "x", "--label", "run"])
    assert wrong.exit_code == 2


def test_a_filter_counts_first_and_cancels_its_jobs_alone(api: ApiProcess, client: Client) -> None:
    mine, others = submit_some(client, "gone", 250), submit_some(client, "stays", 3)
    seen: list[Selected] = []
    assert client.cancel_jobs(labels={"run": "gone"}, dry_run=True) == (250, 0)
    assert client.get(mine[0])["state"] == "queued"
    done = client.cancel_jobs(labels={"run": "gone"}, on_progress=seen.append)
    assert (done, seen[-1]) == ((250, 250), done)
    assert {client.get(job_id)["state"] for job_id in (mine[0], mine[-1])} == {"canceled"}
    assert {client.get(job_id)["state"] for job_id in others} == {"queued"}
    assert client.cancel_jobs(labels={"run": "gone"}) == (0, 0), "repeatable"
    body = {"filter": {"labels": {"run": "stays"}}, "limit": 2}
    first = httpx.post(f"{api.url}/v1/jobs/cancel", json=body).json()
    assert (first["matched"], first["jobs"]) == (2, 2)
    body["cursor"] = first["next_cursor"]
    assert httpx.post(f"{api.url}/v1/jobs/cancel", json=body).json()["jobs"] == 1


def test_the_command_asks_with_the_count(client: Client, api: ApiProcess) -> None:
    mine = submit_some(client, "typed")
    typed = ["jobs", "cancel", "--label", "run=typed", "--url", api.url]
    asked = CliRunner().invoke(app, typed, input="n\n")
    assert "Cancel 7 jobs?" in asked.output
    assert client.get(mine[0])["state"] == "queued"
    counted = CliRunner().invoke(app, [*typed, "--dry-run", "--json"])
    assert json.loads(counted.stdout) == {"matched": 7, "jobs": 0}
    done = CliRunner().invoke(app, [*typed, "--yes"])
    assert (done.exit_code, "canceled: 7 of 7" in done.output) == (0, True)
    for wrong in (["jobs", "cancel"], ["jobs", "cancel", mine[0], "--label", "a=b"]):
        assert CliRunner().invoke(app, [*wrong, "--url", api.url]).exit_code == 2


def test_dead_jobs_are_retried_by_a_filter(client: Client) -> None:
    jobs = [
        client.submit("echo", n, params={"fail": "on purpose"}, labels={"run": "dead"})
        for n in range(3)
    ]
    for job in jobs:
        client.wait(job["id"], timeout=60)
    fine = client.submit("echo", "fine", labels={"run": "dead"}, wait=10)
    assert client.retry_jobs(labels={"run": "dead"}) == (3, 3)
    assert client.get(fine["id"])["state"] == "succeeded"
    again = client.wait(jobs[0]["id"], timeout=60)
    assert again["state"] == "failed"


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({f"n{n}": "x" for n in range(9)}, "at most 8 labels"),
        ({"run": "a b"}, "label 1: a name and a value have 1 to 64"),
        ({"run": "x" * 65}, "1 to 64"),
        ({"run": 7}, "string"),
    ],
)
def test_what_is_no_label_is_told(client: Client, labels: dict[str, Any], says: str) -> None:
    with pytest.raises(ApiError, match=says) as raised:
        client.submit("echo", 1, labels=labels)
    assert raised.value.status == 422


def test_a_filter_without_a_condition_is_refused(client: Client) -> None:
    with pytest.raises(ApiError, match="say which jobs to cancel"):
        client.cancel_jobs()
    with pytest.raises(ApiError, match="write it as run=42"):
        client._call(client_call())  # a label without a value


def client_call() -> Any:
    from api.client.calls import Call

    return Call("GET", "/v1/jobs", {"params": {"label": "run"}})


def test_labels_travel_as_stamps_of_celery(stack: Stack, client: Client) -> None:
    job = client.submit("minilm", "stamped", labels={"run": "s"}, priority=9)
    found = [json.loads(one) for one in stack.redis.lrange("minilm\x06\x169", 0, -1)]
    headers = next(one["headers"] for one in found if one["headers"]["id"] == job["id"])
    assert headers["stamped_headers"] == ["run"]
    assert headers["stamps"] == {"run": "s"}
    echoed = client.submit("echo", "stamped", labels={"run": "s"}, wait=20)
    wait_until(lambda: client.get(echoed["id"])["state"] == "succeeded", what="an echo with labels")
