"""start.lua: a suspect's attempt is counted, or it is dead."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import (
    COUNTS,
    DIGEST,
    FLIGHT,
    FOLLOWERS,
    IN_FLIGHT,
    KEYS,
    LANE,
    NOW_MS,
    Case,
    Says,
    Z,
    check,
    follower_record,
    leased,
    leased_record,
    led,
    message,
    promoted_record,
    says,
    together,
)

CALL = [LANE, "t1:1", "a", 2, 100, 10, "w"]
META = "celery-task-meta-a"
DEAD = {
    "lf:job:a": None,
    KEYS.unacked: None,
    KEYS.index: None,
    KEYS.dead: Z({"a": NOW_MS}),
    KEYS.letters: {"a": Says(reason="attempts_exhausted", band=1, worker="w", attempts=2)},
    KEYS.stats: {"dead": "1"},
    META: Says("FAILURE", state="failed", attempts=2),
}

CASES = [
    Case("the lease is gone", CALL, 0, given={"lf:job:a": leased_record("other:1")}),
    Case(
        "the attempt is counted",
        CALL,
        2,
        given=leased("a", "t1:1", attempts=1),
        then={"lf:job:a": leased_record("t1:1", attempts=2)},
        moves="r->r",
    ),
    Case(
        "attempts were spent, so it is dead; its input stays",
        CALL,
        -1,
        given={
            **leased("a", "t1:1", "acme", attempts=2),
            "lf:blob:a": "large",
            COUNTS: {"acme": "2"},
            IN_FLIGHT: {"acme": "1"},
        },
        then={**DEAD, COUNTS: {"acme": "1"}, IN_FLIGHT: None},
        moves="r->settled",
        published=[META],
    ),
    Case(
        "one of those that followed it runs then, with one try left",
        CALL,
        -1,
        given=together(leased("a", "t1:1", attempts=2), led("a", "b", "c")),
        then={
            **DEAD,
            LANE: [message("b")],
            "lf:job:b": promoted_record(attempts=1),
            "lf:job:c": follower_record("b"),
            f"{FOLLOWERS}a": None,
            f"{FOLLOWERS}b": {"": f"1 0 {LANE}:{DIGEST}", "c": f"1 0 {message('c')}"},
            KEYS.followers: Z({"c": float("inf")}),
            FLIGHT: "1 0 b",
        },
        moves="r->settled, w->q, w->w",
        published=[META],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_start(redis_client: Redis, case: Case) -> None:
    check(redis_client, "start", case)
