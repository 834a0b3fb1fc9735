"""add_batch.lua: a tenant has a bounded number of unfinished batches."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import Case, Z, check, says

KEYS = ("lf:batch:b", "lf:batches", "lf:batch-open:acme", "lf:batch-list:acme")
CALL = ["b", 50, 2, 10, "id", "b", "status", "validating"]

CASES = [
    Case(
        "there is room, and an old one leaves the list",
        CALL,
        1,
        given={
            "lf:batch-list:acme": Z({"old": 10, "new": 11}),
            "lf:batch-open:acme": Z({"new": 11}),
        },
        then={
            "lf:batch:b": {"id": "b", "status": "validating"},
            "lf:batches": Z({"b": 50}),
            "lf:batch-open:acme": Z({"new": 11, "b": 50}),
            "lf:batch-list:acme": Z({"new": 11, "b": 50}),
        },
        keys=KEYS,
    ),
    Case("there is none", CALL, 0, given={"lf:batch-open:acme": Z({"x": 1, "y": 2})}, keys=KEYS),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_add_batch(redis_client: Redis, case: Case) -> None:
    check(redis_client, "add_batch", case)
