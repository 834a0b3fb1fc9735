"""Two fleets on one server, in two databases: neither hears of the other."""

from __future__ import annotations

import httpx
import pytest

from common.jobs.job import Job
from common.redis.keys import CANCELED_CHANNEL, CONTROL_CHANNEL, STARVED_CHANNEL, scoped_channel
from common.redis.scripts import Scripts
from tests.support.stack import Stack, wait_until

CHANNELS = (CANCELED_CHANNEL, CONTROL_CHANNEL, STARVED_CHANNEL)


@pytest.fixture
def neighbor(stack: Stack) -> Stack:
    """Another stack on the same server, in database 5."""
    folder = stack.folder / "neighbor"
    folder.mkdir()
    return Stack(stack.redis_url.rsplit("/", 1)[0] + "/5", folder)


def test_channels_of_two_databases_differ() -> None:
    assert {scoped_channel(one, 0) for one in CHANNELS} == set(CHANNELS)
    named = [scoped_channel(one, database) for one in CHANNELS for database in (0, 1, 15)]
    assert len(set(named)) == len(named)


def test_what_operators_ask_of_one_fleet_reaches_only_that_one(
    stack: Stack, neighbor: Stack
) -> None:
    stack.worker("echo")
    neighbor.worker("echo")
    try:
        api = neighbor.api("echo")
        asked = httpx.post(f"{api.url}/v1/models/echo/unload", timeout=10)
        assert asked.json()["workers"] == 1
        wait_until(lambda: not loaded(neighbor), 20, "its own model to leave")
        stack.await_reports()
        assert loaded(stack), "the other fleet's stayed"
    finally:
        neighbor.close()


def loaded(stack: Stack) -> bool:
    (report,) = stack.reports()
    return report.lanes["echo"].loaded


def test_a_cancel_is_told_in_its_own_database(stack: Stack, neighbor: Stack) -> None:
    neighbor.redis.flushdb()
    (job_id,) = neighbor.publish([Job("echo", 1)])
    record = "r echo 1 0 0 0 t1:1 2 w "
    neighbor.redis.set(f"lf:job:{job_id}", record)
    with stack.redis.pubsub() as listener:
        listener.psubscribe("lf:*")
        listener.get_message(timeout=20)
        Scripts(neighbor.redis).run("cancel", (), (job_id, 60, "canceled"))
        heard = wait_until(lambda: listener.get_message(timeout=5), 20, "the cancel")
    assert heard["channel"] == b"lf:canceled:5"
    neighbor.close()
