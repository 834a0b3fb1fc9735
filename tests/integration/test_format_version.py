"""Who starts agrees on the version of what lies in Redis, or leaves; the processes are real."""

from __future__ import annotations

import threading
from urllib.parse import urlsplit

import pytest
from redis import Redis

from api.cli.fleet import free_port
from common.errors import ConfigurationError
from common.redis.connect import connect
from common.redis.format_version import agree, check_format
from common.redis.keys import FORMAT, FORMAT_VERSION
from tests.support.stack import ROOT, Process, Stack, wait_until

PARTS = {
    "api": ["-m", "api"],
    "api-processes": ["-m", "api"],
    "worker": ["-m", "worker", "--devices", "cpu"],
    "worker-processes": ["-m", "worker", "--devices", "cpu:2"],
}
NEWER = FORMAT_VERSION + 1


def start(stack: Stack, part: str) -> Process:
    """Start it without waiting for anything."""
    workers = "2" if part == "api-processes" else "1"
    environment = {"LANEFLEET_PORT": str(free_port()), "LANEFLEET_API_WORKERS": workers}
    return stack._start(part, PARTS[part], "echo", environment)


@pytest.mark.parametrize("part", PARTS)
def test_a_newer_format_ends_the_start_with_one_line(stack: Stack, part: str) -> None:
    stack.redis.set(FORMAT, NEWER)
    process = start(stack, part)
    assert process.popen.wait(40) == 2
    side = part.partition("-")[0]
    lines = process.output().splitlines()
    assert "Traceback" not in process.output()
    assert [line for line in lines if line.startswith("lanefleet ")] == [
        f"lanefleet {side}: what lies in this Redis has format {NEWER} (lf:format), and this "
        f"release knows {FORMAT_VERSION} at most: start a newer release, or name another "
        "LANEFLEET_REDIS_URL"
    ]
    assert stack.redis.get(FORMAT) == str(NEWER).encode()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("before", [None, FORMAT_VERSION - 1], ids=["none", "older"])
def test_who_starts_writes_the_version_that_it_knows(
    stack: Stack, part: str, before: int | None
) -> None:
    if before is not None:
        stack.redis.set(FORMAT, before)
    start(stack, part)
    wait_until(lambda: stack.redis.get(FORMAT) == str(FORMAT_VERSION).encode(), 40, "the version")


def test_a_flushed_redis_harms_no_running_fleet(stack: Stack) -> None:
    api, worker = stack.api(), stack.worker()
    stack.redis.flushall()
    assert api.client.submit("echo", 1, wait=20)["state"] == "succeeded"
    assert worker.alive
    assert stack.redis.get(FORMAT) is None
    stack.api()
    assert stack.redis.get(FORMAT) == str(FORMAT_VERSION).encode()


def test_a_redis_that_is_away_is_no_reason_not_to_start(stack: Stack) -> None:
    check_format(f"redis://127.0.0.1:{free_port()}/0", stack.settings)


def test_what_is_no_number_is_refused(stack: Stack) -> None:
    stack.redis.set(FORMAT, "1.5-beta")
    with pytest.raises(ConfigurationError, match="of another kind"):
        check_format(stack.redis_url, stack.settings)


def test_of_two_who_raise_it_the_newer_wins(stack: Stack) -> None:
    for _ in range(20):
        stack.redis.delete(FORMAT)
        both = [threading.Thread(target=agree, args=(stack.redis, version)) for version in (2, 3)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert stack.redis.get(FORMAT) == b"3"


def test_a_full_redis_still_says_what_it_holds(own_stack: Stack) -> None:
    client: Redis = own_stack.redis
    client.set(FORMAT, NEWER)
    client.config_set("maxmemory", 1)
    with pytest.raises(ConfigurationError):
        check_format(own_stack.redis_url, own_stack.settings)
    client.config_set("maxmemory", 0)
    client.delete(FORMAT)
    client.config_set("maxmemory", 1)
    check_format(own_stack.redis_url, own_stack.settings)
    assert client.get(FORMAT) is None, "nothing could be written, and nobody was held up"


@pytest.mark.parametrize("role", ["api", "worker"])
def test_a_shipped_user_may_check_and_write_it(own_stack: Stack, role: str) -> None:
    """Without this right it would start on any format, with no more than a warning."""
    shipped = (ROOT / "deploy" / "redis" / "users.acl").read_text()
    rules = next(line for line in shipped.splitlines() if line.startswith(f"user {role} "))
    own_stack.redis.execute_command("ACL", "SETUSER", *rules.split()[1:], ">pw")
    own_stack.redis.delete(FORMAT)
    port = urlsplit(own_stack.redis_url).port
    with connect(f"redis://{role}:pw@127.0.0.1:{port}/0", own_stack.settings) as client:
        assert agree(client, FORMAT_VERSION) == FORMAT_VERSION
        assert agree(client, FORMAT_VERSION - 1) == FORMAT_VERSION
