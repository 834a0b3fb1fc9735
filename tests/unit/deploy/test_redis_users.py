"""The shipped ACL lets the API's role run what the API's scripts call."""

from __future__ import annotations

import re

import pytest

from common.redis.scripts import script_text
from tests.support.stack import ROOT

SCRIPTS = (
    "cancel",
    "claim_idempotency_key",
    "dead_purge",
    "dead_retry",
    "enqueue",
    "list_jobs",
    "queue_position",
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_api_may_run_every_command_of_its_scripts(name: str) -> None:
    users = (ROOT / "deploy" / "redis" / "users.acl").read_text()
    allowed = set(re.findall(r"\+([\w|]+)", users.partition("user api ")[2].partition("\n")[0]))
    allowed |= {"publish"}  # of @pubsub
    called = set(re.findall(r"redis\.p?call\('(\w+)'", script_text(name, server_major=7)))
    assert {one.lower() for one in called} <= allowed
