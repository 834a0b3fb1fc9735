"""reconcile.lua: jobs are settled whose message is gone from their lane."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import (
    COUNTS,
    FLIGHT,
    FOLLOWERS,
    IN_FLIGHT,
    KEYS,
    LANE,
    TTL,
    Case,
    Like,
    Says,
    Z,
    check,
    follower_record,
    led,
    message,
    promoted_record,
    result,
    says,
)

META = "celery-task-meta-a"
LOST = Says("FAILURE", state="failed", reason="message_lost")
FRESH, ENDED = {"lf:job:a": f"q {LANE} 1"}, {"lf:job:a": f"x {LANE} 1"}
OVER = f"lf:lane:{LANE}:over"


def call(*ids: str, settle: str = "1") -> list[object]:
    """The words of one call."""
    return [LANE, TTL, settle, *ids]


CASES = [
    Case(
        "one whose message is gone is settled",
        call("a"),
        ["a"],
        given=FRESH,
        then={"lf:job:a": None, META: LOST, KEYS.stats: {"lost": "1"}},
        moves="q->settled",
        published=[META],
    ),
    Case("a look changes nothing", call("a", settle=""), ["a"], given=FRESH),
    Case(
        "its tenant has one job less",
        call("a"),
        ["a"],
        given={"lf:job:a": f"q {LANE} 1:acme", COUNTS: {"acme": "1"}, IN_FLIGHT: {"acme": "1"}},
        then={
            "lf:job:a": None,
            META: LOST,
            COUNTS: None,
            IN_FLIGHT: None,
            KEYS.stats: {"lost": "1"},
        },
        moves="q->settled",
        published=[META],
    ),
    *(
        Case(f"one that waits {where} stays", call("a"), [], given={**FRESH, **place})
        for where, place in {
            "in a band": {KEYS.bands[2]: [message("b"), message("a")]},
            "for its time": {KEYS.delayed: Z({f"1:{message('a')}": 5})},
            "beside its band": {OVER: {"1:t": "1", "1:": "1"}, f"{OVER}:1:t": [message("a")]},
        }.items()
    ),
    Case(
        "one that is leased stays", call("a"), [], given={"lf:job:a": f"r {LANE} 1 0 0 0 t:1 2 w "}
    ),
    Case("one of another lane stays", call("a"), [], given={"lf:job:a": "q other 1"}),
    Case("in a deep lane nobody is judged", call("a"), [], given={**FRESH, LANE: ["{}"] * 1001}),
    Case(
        "what is left of one that ended goes",
        call("a"),
        [],
        given={**ENDED, META: result("a")},
        then={"lf:job:a": None},
        moves="x->settled",
    ),
    Case(
        "what is left of one that another worker finished goes",
        call("a", settle=""),
        [],
        given={**FRESH, META: result("a")},
        then={"lf:job:a": None},
        moves="q->settled",
    ),
    Case(
        "a follower takes its place",
        call("a"),
        ["a"],
        given={"lf:job:a": f"q {LANE} 1", **led("a", "b", "c")},
        then={
            "lf:job:a": None,
            META: LOST,
            KEYS.stats: {"lost": "1"},
            LANE: [message("b")],
            "lf:job:b": promoted_record(),
            "lf:job:c": follower_record("b"),
            KEYS.followers: Z({"c": float("inf")}),
            f"{FOLLOWERS}a": None,
            f"{FOLLOWERS}b": {"": Like(".*"), "c": f"1 0 {message('c')}"},
            FLIGHT: "1 0 b",
        },
        moves="q->settled, w->q, w->w",
        published=[META],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_reconcile(redis_client: Redis, case: Case) -> None:
    check(redis_client, "reconcile", case)
