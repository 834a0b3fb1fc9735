"""A client in several processes, event loops, threads and tasks; its errors on the way between."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from api.client import (
    AsyncClient,
    Client,
    ClientError,
    StillRunning,
)
from tests.support.stack import ROOT


class _Echo(BaseHTTPRequestHandler):
    """Answers a job of the name asked for, on connections that are kept."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        job_id = self.path.rpartition("/")[2]
        self.server.seen.append((self.client_address[1], job_id))  # type: ignore[attr-defined]
        body = b'{"id": "%b", "model": "echo", "state": "succeeded"}' % job_id.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    made.daemon_threads = True
    made.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def forked(run: Callable[[], Any]) -> Any:
    """What this gives, or raises, in a child of this process."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child() -> None:
        warnings.simplefilter("ignore")
        try:
            theirs.send(run())
        except Exception as exc:
            theirs.send(exc)

    process = context.Process(target=child)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads
        process.start()
    assert ours.poll(30), "the child says nothing"
    answer = ours.recv()
    process.join()
    return answer


def url_of(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def connections(server: ThreadingHTTPServer) -> dict[str, int]:
    """The client's port by job."""
    return {job: port for port, job in server.seen}  # type: ignore[attr-defined]


alone = pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" in os.environ,
    reason="a process with other tests' threads must not be forked; run in one of its own below",
)


@alone
def test_a_client_has_connections_of_its_own_in_each_process(server: ThreadingHTTPServer) -> None:
    with Client(url_of(server)) as client:
        assert client.get("before")["id"] == "before"
        ids = [forked(lambda name=name: client.get(name)["id"]) for name in ("c1", "c2")]  # type: ignore[misc]
        assert ids == ["c1", "c2"]
        assert client.get("after")["id"] == "after"
    used = connections(server)
    assert used["before"] == used["after"]
    assert len({used["before"], used["c1"], used["c2"]}) == 3


@alone
def test_an_asynchronous_client_has_its_own_in_each_process_and_loop(
    server: ThreadingHTTPServer,
) -> None:
    client = AsyncClient(url_of(server))

    async def get(*names: str) -> list[str]:
        return [(await client.get(name))["id"] for name in names]

    async def run() -> None:
        assert await get("a1", "a2") == ["a1", "a2"]
        child = await asyncio.to_thread(forked, lambda: asyncio.run(get("child")))
        assert child == ["child"]
        assert await get("a3") == ["a3"]

    asyncio.run(run())
    assert asyncio.run(get("other loop".replace(" ", "-"))) == ["other-loop"]
    used = connections(server)
    assert used["a1"] == used["a2"] == used["a3"]
    assert len({used["a1"], used["child"], used["other-loop"]}) == 3


@alone
def test_what_cannot_be_shared_by_processes_is_refused(server: ThreadingHTTPServer) -> None:
    http = httpx.Client(base_url=url_of(server))
    client = Client(http=http)
    assert client.get("here")["id"] == "here"
    told = forked(lambda: client.get("there"))
    assert isinstance(told, ClientError)
    assert "make another Client here" in str(told)
    jobs = Client(http=httpx.Client(transport=httpx.MockTransport(_bulk), base_url="http://f")).map(
        "echo", range(9), chunk=3, window=3
    )
    next(jobs)
    assert "belongs to the other process" in str(forked(lambda: list(jobs)))
    assert len(list(jobs)) == 8


def _bulk(request: httpx.Request) -> httpx.Response:
    if request.url.path.endswith("bulk"):
        count = len(request.content.splitlines())
        lines = [b'{"line":%d,"id":"%d"}\n' % (n, n) for n in range(1, count + 1)]
    else:
        lines = [
            b'{"id":"%d","model":"echo","state":"succeeded"}\n' % n for n in range(1, 4)
        ]  # fmt: skip
    return httpx.Response(200, content=b"".join(lines))


def test_a_pool_of_processes_hears_of_an_error() -> None:
    late = pytest.raises(StillRunning, match="still queued after 1 s")
    with multiprocessing.get_context("spawn").Pool(1) as pool, late:
        pool.apply_async(_late).get(60)


def _late() -> None:
    raise StillRunning({"id": "j1", "model": "echo", "state": "queued"}, 1)


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="they run by themselves")
def test_those_that_fork_pass_in_a_process_of_their_own() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [*command, "-k", "process", __file__],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert " 4 passed" in ended.stdout or "\n4 passed" in ended.stdout, ended.stdout
