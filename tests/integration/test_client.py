"""The Python client and the command line against a real fleet."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from typer.testing import CliRunner

from api.cli import app
from api.client import ApiError, AsyncClient, Client, JobFailed
from common.redis.embedded_server import RedisServer
from tests.support.stack import ROOT, ApiProcess, Stack, wait_until

LANEFLEET = (sys.executable, "-c", "from api.cli import main; main()")


@pytest.fixture(scope="module")
def api(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = Stack(embedded_redis.url, tmp_path_factory.mktemp("client"))
    made.redis.flushall()
    made.worker("echo")
    yield made.api("echo,minilm")
    made.close()


@pytest.fixture
def client(api: ApiProcess) -> Iterator[Client]:
    with Client(api.url) as made:
        yield made


def test_a_map_gives_every_result_in_order(client: Client) -> None:
    jobs = list(client.map("echo", (f"{n}" * 3 for n in range(3000)), chunk=250, window=1000))
    assert [job["result"]["length"] for job in jobs] == [len(f"{n}" * 3) for n in range(3000)]
    assert jobs[7]["index"] == 7
    assert client.get(jobs[7]["id"])["result"] == jobs[7]["result"]


def test_a_map_out_of_order_gives_the_quick_before_the_slow(client: Client) -> None:
    slow = client.submit("echo", "slow", params={"sleep_ms": 300})
    jobs = list(client.map("echo", range(600), ordered=False, chunk=100))
    assert sorted(job["index"] for job in jobs) == list(range(600))
    assert client.wait(slow["id"], timeout=10)["state"] == "succeeded"


def test_errors_of_a_map_come_one_by_one(client: Client) -> None:
    with pytest.raises(JobFailed, match="input 0: invalid_input"):
        list(client.map("minilm", [5]))
    jobs = list(client.map("echo", ["a"], params={"fail": "on purpose"}, on_error="return"))
    assert (jobs[0]["state"], jobs[0]["error"]["reason"]) == ("failed", "attempts_exhausted")


def test_the_asynchronous_client_does_it_all(api: ApiProcess) -> None:
    async def run() -> None:
        async with AsyncClient(api.url) as client:
            job = await client.submit("echo", {"hello": "world"}, wait=10)
            assert job["result"]["length"] == 17
            assert (await client.get(job["id"]))["state"] == "succeeded"
            assert (await client.wait(job["id"]))["state"] == "succeeded"
            jobs = [job async for job in client.map("echo", range(1200), chunk=100)]
            assert [job["index"] for job in jobs] == list(range(1200))
            events = [event async for event in client.events(job["id"])]
            assert events[-1].job["result"] == job["result"]
            late = await client.submit("echo", "late", params={"sleep_ms": 500})
            assert (await client.cancel(late["id"]))["state"] == "canceled"
            assert {model["name"] for model in await client.models()} == {"echo", "minilm"}
            assert (await client.lanes())["echo"]["succeeded"] > 0
            with pytest.raises(ApiError, match="no job"):
                await client.get("nope")

    asyncio.run(run())


@pytest.mark.parametrize("minimal", [True, False])
def test_results_of_many_come_as_they_are_settled(
    api: ApiProcess, client: Client, minimal: bool
) -> None:
    jobs: list[dict[str, Any]] = [
        {"model": "echo", "input": n, "params": {"sleep_ms": 300}} for n in range(150)
    ]
    jobs[70]["model"] = "nope"
    body = b"".join(orjson.dumps(job) + b"\n" for job in jobs)
    taken = httpx.post(f"{api.url}/v1/jobs/bulk", content=body).content.splitlines()
    ids = [orjson.loads(line)["id"] for line in taken if b'"id"' in line]
    assert len(ids) == 149, "a line is refused"
    ids.append(client.submit("minilm", "nobody runs it here")["id"])
    ids.append(client.submit("minilm", "nor this", labels={"a": "b"})["id"])
    client.cancel(ids[-1])
    prefer = "wait=4, return=minimal" if minimal else "wait=4"
    answer = httpx.post(
        f"{api.url}/v1/jobs/results", json={"ids": ids}, headers={"Prefer": prefer}, timeout=60
    )
    found = {job["id"]: job for job in map(orjson.loads, answer.content.splitlines())}
    assert found.keys() == {*ids}
    assert (found[ids[-2]]["state"], found[ids[-1]]["state"]) == ("queued", "canceled")
    assert {found[one]["result"]["length"] for one in ids[:-2]} == {1, 2, 3}
    assert answer.headers.get("preference-applied") == ("return=minimal" if minimal else None)
    assert ("links" in found[ids[0]], "worker" in found[ids[0]]) == (not minimal, not minimal)
    client.cancel(ids[-2])


def test_a_stream_follows_a_job_to_its_end(client: Client) -> None:
    job = client.submit("echo", "slow", params={"sleep_ms": 1200})
    events = list(client.events(job["id"]))
    assert [event.state for event in events] == ["queued", "running", "succeeded"]
    assert events[-1].job["result"]["length"] == 4


def test_a_submit_under_one_key_is_one_job(client: Client) -> None:
    first = client.submit("echo", "once", idempotency_key="k-1")
    assert client.submit("echo", "once", idempotency_key="k-1")["id"] == first["id"]
    with pytest.raises(ApiError, match="another body"):
        client.submit("echo", "twice", idempotency_key="k-1")


def test_a_file_goes_as_it_is(client: Client, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("hello")
    assert client.submit_file("echo", tmp_path / "words.txt", wait=10)["result"]["length"] == 5


def lanefleet(api: ApiProcess, *arguments: str, stdin: bytes | None = None) -> tuple[int, Any]:
    """Exit status and JSON of a command."""
    command = [*arguments, "--url", api.url, "--json"]
    answer = CliRunner().invoke(app, command, input=stdin, catch_exceptions=False)
    return answer.exit_code, json.loads(answer.stdout) if answer.stdout else answer.stderr


def test_the_command_submits_and_follows_jobs(api: ApiProcess, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("hello")
    for value, stdin, length in (
        (str(tmp_path / "words.txt"), None, 5),
        ("a" * 300, None, 300),
        ('{"hello": "world"}', None, 17),
        ("-", b"from a pipe", 11),
    ):
        status, job = lanefleet(api, "submit", "echo", value, stdin=stdin)
        assert (status, job["state"], job["result"]["length"]) == (0, "succeeded", length), value
    job_id = job["id"]
    assert lanefleet(api, "jobs", "get", job_id) == lanefleet(api, "jobs", "wait", job_id)
    assert lanefleet(api, "jobs", "result", job_id) == (0, job["result"])
    listed = lanefleet(api, "jobs", "list", "--state", "succeeded", "--limit", "1")[1]
    assert (listed["jobs"][0]["id"], "next_cursor" in listed) == (job_id, True)
    slow = ("echo", "slow", "--params", '{"sleep_ms": 20000}', "--wait", "0")
    status, waiting = lanefleet(api, "jobs", "submit", *slow)
    assert (status, waiting["state"]) == (0, "queued")
    assert lanefleet(api, "jobs", "cancel", waiting["id"])[1]["state"] == "canceled"
    status, ended = lanefleet(api, "jobs", "wait", waiting["id"])
    assert (status, ended["state"]) == (1, "canceled")


def test_the_command_says_what_is_wrong_in_a_sentence(api: ApiProcess) -> None:
    binary = CliRunner().invoke(
        app, ["submit", "minilm", "-", "--url", api.url], input=b"\xff\xd8pixels"
    )
    assert isinstance(binary.exception, ApiError)
    assert "not UTF-8" in str(binary.exception)
    environment = {**os.environ, "LANEFLEET_URL": api.url, "LANEFLEET_API_KEY": "lfk_sec ret"}
    answer = run_command(environment, "jobs", "list")
    assert (answer.returncode, "copy it again" in answer.stderr) == (1, True)
    assert "sec" not in answer.stderr + answer.stdout
    host, _, port = api.url.removeprefix("http://").rpartition(":")
    environment = {**os.environ, "LANEFLEET_HOST": host, "LANEFLEET_PORT": port}
    environment.pop("LANEFLEET_URL", None)
    told = run_command(environment, "jobs", "result", "nope").stderr
    assert " ".join(told.split()).startswith("lanefleet: there is no job 'nope';")


def run_command(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LANEFLEET, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_an_interrupted_command_tells_the_id_and_how_to_go_on(
    api: ApiProcess, client: Client
) -> None:
    process = subprocess.Popen(
        [*LANEFLEET, "submit", "echo", "interrupted",
         "--params", '{"sleep_ms": 15000}', "--url", api.url],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell has its background jobs, such as this run of the tests, ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip

    def mine() -> str | None:
        running = client.list_jobs(state="running")["jobs"]
        return running[0]["id"] if running else None

    job_id = wait_until(mine, 30, "its job to run")
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out.split() in (["queued", job_id], ["running", job_id])
    assert f"lanefleet jobs wait {job_id} --url {api.url}" in told
    assert f"lanefleet jobs cancel {job_id} --url {api.url}" in told
    assert client.cancel(job_id)["state"] == "canceled"


@pytest.mark.slow
def test_a_thousand_submits_at_once_are_all_taken(api: ApiProcess) -> None:
    async def run() -> set[str]:
        async with AsyncClient(api.url, timeout=60) as many:
            jobs = await asyncio.gather(*(many.submit("echo", n) for n in range(1000)))
        return {job["id"] for job in jobs}

    assert len(asyncio.run(run())) == 1000
