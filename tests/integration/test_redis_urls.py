"""Every program reads a Redis URL alike: it works for all of them, or all say why not and end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from common.redis.embedded_server import RedisServer
from tests.support.stack import ROOT, Stack, running_redis

PROGRAMS = {
    "api": ("-m", "api"),
    "worker": ("-m", "worker"),
    "cli": ("-m", "api.cli.main", "keys", "list"),
    "celery": ("-m", "celery", "-A", "common.broker", "inspect", "ping"),
}


def run(program: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *PROGRAMS[program]],
        env={**os.environ, "LANEFLEET_REDIS_URL": url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://:secret@localhost:6379/0", "http:// is no kind of Redis"),
        ("redis://:secret/half@localhost:6379/0", "must be percent-encoded"),
    ],
)
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_ends_with_one_line_and_status_2(program: str, url: str, says: str) -> None:
    ended = run(program, url)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 2, said
    assert says in " ".join(said.split())
    assert "Traceback" not in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("login", "says"),
    [(":hidden@", "Redis refuses the login"), ("", "Redis refuses the login"), (None, "reached")],
)
def test_a_command_says_in_one_line_why_redis_does_nothing(
    embedded_redis: RedisServer, login: str | None, says: str
) -> None:
    place = embedded_redis.url.rpartition("@")[2]
    url = "redis://127.0.0.1:1/0" if login is None else f"redis://{login}{place}"
    ended = run("cli", url)
    assert ended.returncode == 1
    assert says in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert "hidden" not in ended.stderr


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The socket of a server, and the password that it asks for."""
    folder = tmp_path_factory.mktemp("sock")
    path = folder / "r.sock"
    with running_redis(folder, "embedded", "--unixsocket", str(path)) as server:
        yield path, server.url.partition(":")[2].partition(":")[2].partition("@")[0]


@pytest.mark.parametrize(
    "form",
    [
        "unix://:{password}@{path}?db=2",
        "redis+socket://:{password}@{path}?virtual_host=2",
        "redis://:{password}@{path}?db=2",
    ],
)
def test_a_job_over_a_socket(form: str, socket_path: tuple[Path, str], tmp_path: Path) -> None:
    path, password = socket_path
    url = form.format(password=password, path=path)
    stack = Stack(url, tmp_path)
    try:
        stack.worker("echo")
        api = stack.api("echo")
        assert api.client.submit("echo", "near", wait=10)["state"] == "succeeded"
        app = Celery(
            "client", broker=celery_url(path, password), backend=celery_url(path, password)
        )
        app.conf.broker_transport_options = {"socket_timeout": 5}
        sent = app.send_task("infer", kwargs={"model": "echo", "input": 7}, queue="echo")
        assert sent.get(timeout=20)
        assert app.control.inspect(timeout=20, limit=1).ping(), "the bus works over the socket too"
    finally:
        stack.close()


def celery_url(path: Path, password: str) -> str:
    """As a stock Celery client writes it."""
    return f"redis+socket://:{password}@{path}?virtual_host=2"
