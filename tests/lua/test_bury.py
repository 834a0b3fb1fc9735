"""bury.lua: leased jobs go to the dead list with their reason."""

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
    led,
    message,
    promoted_record,
    says,
    together,
)

HEAD = [LANE, 100, 2, "w"]
META = "celery-task-meta-a"
GONE = {"lf:job:a": None, KEYS.unacked: None, KEYS.index: None}

CASES = [
    Case("the lease is gone", [*HEAD, "t1:1", "a", "why", "it broke", 1, ""], 0),
    Case(
        "the worker's own result is published, and the model was at fault the first time",
        [*HEAD, "t1:1", "a", "attempts_exhausted", "it broke", 1, "{}"],
        1,
        given=leased("a", "t1:1"),
        then={
            **GONE,
            KEYS.dead: Z({"a": NOW_MS}),
            KEYS.letters: {"a": Says(id="a", lane=LANE, reason="attempts_exhausted")},
            KEYS.stats: {"dead": "1", "model_failed": "1"},
            META: "{}",
        },
        moves="r->settled",
        published=[META],
    ),
    Case(
        "the failure is its tenant's",
        [*HEAD, "t1:1", "a", "attempts_exhausted", "it broke", 1, "{}"],
        1,
        given=leased("a", "t1:1", "acme"),
        then={
            **GONE,
            KEYS.dead: Z({"a": NOW_MS}),
            KEYS.letters: {"a": Says(id="a", lane=LANE, tenant="acme")},
            KEYS.stats: {"dead": "1", "model_failed": "1"},
            KEYS.failures: {"acme": "1"},
            META: "{}",
        },
        moves="r->settled",
        published=[META],
    ),
    Case(
        "without one the script makes it; the oldest letter leaves with its input",
        [*HEAD, "t1:1", "a", "unreadable", "no call", 1, ""],
        1,
        given={
            **leased("a", "t1:1", "acme"),
            KEYS.dead: Z({"x": 1, "y": 2}),
            KEYS.letters: {"x": "{}", "y": "{}"},
            "lf:blob:a": "large",
            "lf:blob:x": "large",
            COUNTS: {"acme": "1"},
            IN_FLIGHT: {"acme": "3"},
        },
        then={
            **GONE,
            KEYS.dead: Z({"a": NOW_MS, "y": 2}),
            KEYS.letters: {"a": Says(tenant="acme", error="no call"), "y": "{}"},
            "lf:blob:x": None,
            COUNTS: None,
            IN_FLIGHT: {"acme": "2"},
            KEYS.stats: {"dead": "1"},
            META: Says("FAILURE", reason="unreadable", tenant="acme"),
        },
        moves="r->settled",
        published=[META],
    ),
    Case(
        "one of those that followed it runs then",
        [*HEAD, "t1:1", "a", "why", "it broke", 2, "{}"],
        1,
        given=together(leased("a", "t1:1"), led("a", "b", "c")),
        then={
            **GONE,
            LANE: [message("b")],
            "lf:job:b": promoted_record(),
            "lf:job:c": follower_record("b"),
            f"{FOLLOWERS}a": None,
            f"{FOLLOWERS}b": {"": f"1 0 {LANE}:{DIGEST}", "c": f"1 0 {message('c')}"},
            KEYS.followers: Z({"c": float("inf")}),
            FLIGHT: "1 0 b",
            KEYS.dead: Z({"a": NOW_MS}),
            KEYS.letters: {"a": Says(id="a")},
            KEYS.stats: {"dead": "1"},
            META: "{}",
        },
        moves="r->settled, w->q, w->w",
        published=[META],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_bury(redis_client: Redis, case: Case) -> None:
    check(redis_client, "bury", case)
