"""release.lua: unstarted jobs go back to the front of their band."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import (
    KEYS,
    LANE,
    PLACED,
    Case,
    check,
    leased,
    message,
    says,
    together,
    waiting_record,
)

GONE = {KEYS.unacked: None, KEYS.index: None}

CASES = [
    Case("the lease is gone", [LANE, "t1:1", "a", "1"], 0),
    Case(
        "two go back in their order, in front of who waits",
        [LANE, "t1:1", "a", "1", "t2:1", "b", "1"],
        2,
        given=together({LANE: [message("c")]}, leased("a", "t1:1"), leased("b", "t2:1")),
        then={
            **GONE,
            LANE: [message("c"), message("b"), message("a")],
            "lf:job:a": waiting_record(),
            "lf:job:b": waiting_record(),
            KEYS.stats: {"released": "2"},
        },
        moves="r->q",
    ),
    Case(
        "a suspect keeps its attempts and gives back a delivery",
        [LANE, "t1:2", "a", ""],
        1,
        given=leased("a", "t1:2", attempts=1, deliveries=3),
        then={
            **GONE,
            KEYS.bands[1]: [message("a")],
            "lf:job:a": waiting_record(attempts=1, deliveries=2),
            KEYS.stats: {"released": "1"},
        },
        moves="r->q",
    ),
    Case(
        "a tenant's job counts in its window again",
        [LANE, "t1:1", "a", "1"],
        1,
        given=leased("a", "t1:1", "acme"),
        then={
            **GONE,
            LANE: [message("a", "acme")],
            PLACED: {"acme": "1"},
            "lf:job:a": waiting_record(tenant="acme"),
            KEYS.stats: {"released": "1"},
        },
        moves="r->q",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_release(redis_client: Redis, case: Case) -> None:
    check(redis_client, "release", case)
