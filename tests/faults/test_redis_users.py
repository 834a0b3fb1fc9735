"""Users whose provider forbids something: what still works, and what they are told, once."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from common.jobs.job import Job
from tests.faults.test_redis_trouble import Server
from tests.support.stack import IN_CI, Stack
from worker.jobs.leases import LaneLeases, LeasePolicy

_CELERYS = "resetchannels &/0.celery.pidbox &/0.reply.celery.pidbox &/0.celeryev*"


class Restricted(NamedTuple):
    rules: str
    """Beyond all commands, keys and channels."""
    api_told: tuple[str, ...] = ()
    worker_told: tuple[str, ...] = ()


USERS = {
    "no-info": Restricted("-info", ("INFO",), ("INFO",)),
    "no-config": Restricted("-config"),
    "no-tracking": Restricted("-client|tracking", (), ("CLIENT TRACKING",)),
    "no-client": Restricted("-client", (), ("CLIENT ID",)),
    "managed": Restricted(
        "-info -config -client -hello -@dangerous +@read",  # HELLO is never refused
        ("INFO",),
        ("INFO", "CLIENT ID"),
    ),
    "no-channels": Restricted(
        _CELERYS,
        ("SUBSCRIBE",),
        (
            "PUBLISH",
            "SUBSCRIBE __redis__:invalidate",
            "SUBSCRIBE lf:canceled",
            "SUBSCRIBE lf:control",
            "SUBSCRIBE lf:hurry",
        ),
    ),
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    path = shutil.which("redis-server")
    if path is None:
        (pytest.fail if IN_CI else pytest.skip)("no redis-server on PATH")
    made = Server(tmp_path / "redis", binary=str(path)).start()
    yield made
    made.kill()


@pytest.mark.parametrize("name", USERS)
def test_a_restricted_user_works_and_is_told_once(
    name: str, server: Server, tmp_path: Path
) -> None:
    user = USERS[name]
    allow(server, user)
    stack = Stack(f"redis://limited:pw@127.0.0.1:{server.port}/0", tmp_path)
    try:
        worker = stack.worker("echo")
        api = stack.api("echo")
        for number in range(3):
            assert api.client.submit("echo", number, wait=10)["state"] == "succeeded"
        before = stack.await_reports(3)
        assert before
        assert refused(worker.output()) == sorted(user.worker_told)
        assert refused(api.process.output()) == sorted(user.api_told)
        warned = [line for line in worker.output().splitlines() if "warning" in line]
        assert len(warned) == len(user.worker_told), warned
    finally:
        stack.close()


def test_a_running_job_is_canceled_by_who_may_not_tell_its_worker(
    server: Server, tmp_path: Path
) -> None:
    allow(server, USERS["no-channels"])
    stack = Stack(f"redis://limited:pw@127.0.0.1:{server.port}/0", tmp_path)
    try:
        (job_id,) = stack.publish([Job("echo", 1)])
        leases = LaneLeases(stack.redis, "echo", "w", LeasePolicy.of(stack.settings))
        (lease,) = leases.reserve(1, 60).leases
        assert leases.cancel(job_id, 60, "canceled") == "canceled"
        assert leases.renew([lease.tag]) == [lease.tag], "it is no longer held"
    finally:
        stack.close()


def allow(server: Server, user: Restricted) -> None:
    rules = f"on >pw ~* &* +@all {user.rules}".split()
    server.client().execute_command("ACL", "SETUSER", "limited", *rules)


def refused(output: str) -> list[str]:
    """The commands that a process said it was refused, each as often as it said so."""
    lines = [line for line in output.splitlines() if "redis_command_refused" in line]
    found = [re.search(r"command=('[^']*'|\S+)", line) for line in lines]
    return sorted(one[1].strip("'") for one in found if one)
