"""A Redis that may throw jobs away: doctor, /ready and one line of the log say so."""

from __future__ import annotations

import httpx
import pytest

from api.cli.doctor import examine
from common.settings import Settings
from tests.support.stack import Stack


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
def test_a_policy_that_evicts_is_said_wherever_people_look(own_stack: Stack, policy: str) -> None:
    own_stack.redis.config_set("maxmemory-policy", policy)
    api = own_stack.api("echo")
    ready = httpx.get(f"{api.url}/ready")
    found = examine(Settings(redis_url=own_stack.redis_url)).redis["warnings"]  # type: ignore[arg-type]
    lines = [one for one in api.process.output().splitlines() if "redis_may_lose_jobs" in one]
    assert ready.status_code == 200, "which refuses nobody"
    if policy == "noeviction":
        assert (ready.json()["warnings"], found, lines) == ([], [], [])
        return
    assert "allkeys-lru" in ready.json()["warnings"][0]
    assert found == ready.json()["warnings"]
    assert len(lines) == 1
    assert "allkeys-lru" in lines[0]


def test_doctor_without_info_says_what_it_does_not_know(own_stack: Stack) -> None:
    own_stack.redis.execute_command("ACL", "SETUSER", "u", "on", ">pw", "~*", "+@all", "-info")
    host = own_stack.redis_url.rpartition("@")[2]
    found = examine(Settings(redis_url=f"redis://u:pw@{host}")).redis  # type: ignore[arg-type]
    assert found["reachable"]
    assert "INFO is refused" in found["warnings"][0]
