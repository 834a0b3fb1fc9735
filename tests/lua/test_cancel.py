"""cancel.lua: one job ends, wherever it is."""

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
    TTL,
    Case,
    Says,
    Z,
    check,
    follower_record,
    leased,
    led,
    message,
    promoted_record,
    result,
    says,
    together,
)

CANCEL, EXPIRE = ["a", TTL, "canceled"], ["a", TTL, "expired"]
META = "celery-task-meta-a"
CANCELED = {META: Says("REVOKED", state="canceled", lane=LANE), KEYS.stats: {"canceled": "1"}}

CASES = [
    Case("nobody knows it", CANCEL, "", keys=()),
    Case("it succeeded", CANCEL, "succeeded", given={META: result("a")}, keys=()),
    Case("it failed", CANCEL, "failed", given={META: '{"status": "FAILURE"}'}, keys=()),
    Case("it was canceled", CANCEL, "canceled", given={META: '{"status":"REVOKED"}'}, keys=()),
    Case(
        "it expired",
        CANCEL,
        "expired",
        given={META: '{"status":"REVOKED","result":{"exc_message":["expired"]}}'},
        keys=(),
    ),
    Case(
        "its result is gone and its message still waits",
        CANCEL,
        "canceled",
        given={"lf:job:a": f"x {LANE} 1"},
        keys=(),
    ),
    Case(
        "a waiting one leaves a record for its message, and counts until that is gone",
        CANCEL,
        "canceled",
        given={
            LANE: [message("a", "acme")],
            "lf:job:a": f"q {LANE} 1:acme",
            "lf:blob:a": "large",
            COUNTS: {"acme": "1"},
            IN_FLIGHT: {"acme": "1"},
        },
        then={
            **CANCELED,
            "lf:job:a": f"x {LANE} 1:acme",
            "lf:blob:a": None,
        },
        moves="q->x",
        published=[META],
        keys=(),
    ),
    Case(
        "a running one loses its lease, and its worker is told",
        CANCEL,
        "canceled",
        given=leased("a", "t1:1"),
        then={**CANCELED, "lf:job:a": None, KEYS.unacked: None, KEYS.index: None},
        moves="r->settled",
        published=["lf:canceled", META],
        keys=(),
    ),
    Case(
        "a deadline passed",
        EXPIRE,
        "expired",
        given=leased("a", "t1:1"),
        then={
            "lf:job:a": None,
            KEYS.unacked: None,
            KEYS.index: None,
            META: Says("REVOKED", state="expired", reason="deadline"),
            KEYS.stats: {"expired": "1"},
        },
        moves="r->settled",
        published=["lf:canceled", META],
        keys=(),
    ),
    Case(
        "a follower leaves; the last one takes its leader's own entry along",
        CANCEL,
        "canceled",
        given=led("b", "a"),
        then={**CANCELED, "lf:job:a": None, f"{FOLLOWERS}b": None, KEYS.followers: None},
        moves="w->settled",
        published=[META],
        keys=(),
    ),
    Case(
        "a follower that was overtaken leaves a record for its message; those behind it move up",
        CANCEL,
        "canceled",
        given=together(
            led("b", "a", waits="a"),
            {LANE: [message("a")], KEYS.followers: Z({"c": float("inf")})},
            {f"{FOLLOWERS}a": {"": f"1 0 {LANE}:{DIGEST}", "c": f"1 0 {message('c')}"}},
            {f"{FOLLOWERS}b": {"d": f"1 0 {message('d')}"}, "lf:job:d": follower_record("b")},
            {"lf:job:c": follower_record("a"), KEYS.followers: Z({"d": float("inf")})},
        ),
        then={
            **CANCELED,
            "lf:job:a": f"x {LANE} 1",
            "lf:job:c": follower_record("b"),
            f"{FOLLOWERS}a": None,
            f"{FOLLOWERS}b": {
                "": f"1 0 {LANE}:{DIGEST}",
                "c": f"1 0 {message('c')}",
                "d": f"1 0 {message('d')}",
            },
            KEYS.followers: Z({"c": float("inf"), "d": float("inf")}),
        },
        moves="w->x, w->w",
        published=[META],
        keys=(),
    ),
    Case(
        "a leader's first follower leads",
        CANCEL,
        "canceled",
        given=together({LANE: [message("a")], "lf:job:a": f"q {LANE} 1"}, led("a", "b")),
        then={
            **CANCELED,
            "lf:job:a": f"x {LANE} 1",
            LANE: [message("a"), message("b")],
            "lf:job:b": promoted_record(),
            f"{FOLLOWERS}a": None,
            KEYS.followers: None,
            FLIGHT: "1 0 b",
        },
        moves="q->x, w->q",
        published=[META],
        keys=(),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_cancel(redis_client: Redis, case: Case) -> None:
    check(redis_client, "cancel", case)
