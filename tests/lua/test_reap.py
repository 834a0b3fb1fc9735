"""reap.lua: lapsed leases and due jobs come back; what is counted is repaired."""

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
    PLACED,
    Case,
    Says,
    Within,
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
    waiting_record,
)

CALL = [LANE, 100, 100, 2, 5000, 3000]
PULSE = f"lf:lane:{LANE}:pulse"

CASES = [
    Case("there is nothing to do", CALL, [0, 0, -1]),
    Case(
        "counts of a list that was deleted go with it",
        CALL,
        [0, 0, -1],
        given={PLACED: {"acme": "2"}},
        then={PLACED: None},
    ),
    Case(
        "who lapsed first is served first; a live lease stays",
        CALL,
        [2, 0, -1],
        given={
            **together(leased("a", "t1:1"), leased("b", "t2:1"), leased("c", "t3:1")),
            KEYS.index: Z({"t1:1": 5, "t2:1": 6, "t3:1": 4e9}),
            LANE: [message("d")],
        },
        then={
            LANE: [message("d"), message("b"), message("a")],
            "lf:job:a": waiting_record(attempts=1),
            "lf:job:b": waiting_record(attempts=1),
            KEYS.unacked: leased("c", "t3:1")[KEYS.unacked],
            KEYS.index: Z({"t3:1": 4e9}),
            KEYS.stats: {"reaped": "2"},
        },
        moves="r->q",
    ),
    Case(
        "what lapsed while nobody looked is held a moment longer; what had lapsed before is not",
        CALL,
        [1, 0, -1],
        given={
            **together(leased("a", "t1:1"), leased("b", "t2:1"), leased("c", "t3:1")),
            KEYS.index: Z({"t1:1": 5, "t2:1": 20, "t3:1": 4e9}),
            PULSE: "10000",
        },
        then={
            LANE: [message("a")],
            "lf:job:a": waiting_record(attempts=1),
            KEYS.unacked: together(leased("b", "t2:1"), leased("c", "t3:1"))[KEYS.unacked],
            KEYS.index: Z({"t2:1": Within(1.7e9, 4e9), "t3:1": 4e9}),
            KEYS.stats: {"reaped": "1", "spared": "1"},
        },
        moves="r->q",
    ),
    Case(
        "a clock that was set back says nothing of who lives",
        CALL,
        [1, 0, -1],
        given={**leased("a", "t1:1"), KEYS.index: Z({"t1:1": 5}), PULSE: "4000000000000"},
        then={
            LANE: [message("a")],
            "lf:job:a": waiting_record(attempts=1),
            KEYS.unacked: None,
            KEYS.index: None,
            KEYS.stats: {"reaped": "1"},
        },
        moves="r->q",
    ),
    Case(
        "a lease without a message is forgotten",
        CALL,
        [0, 0, -1],
        given={KEYS.index: Z({"t1:1": 5})},
        then={KEYS.index: None},
    ),
    Case(
        "due jobs come back, and the next is told",
        CALL,
        [0, 1, Within(1, 4e12)],
        given={KEYS.delayed: Z({f"2:{message('a')}": 1, f"1:{message('b')}": 4e12})},
        then={KEYS.bands[1]: [message("a")], KEYS.delayed: Z({f"1:{message('b')}": 4e12})},
    ),
    Case(
        "what somebody else took is not counted any more, and others move up",
        CALL,
        [0, 0, -1],
        given={
            PLACED: {"acme": "2"},
            COUNTS: {"acme": "5"},
            IN_FLIGHT: {"acme": "5"},
            f"lf:lane:{LANE}:over": {"1:acme": "1", "1:": "1"},
            f"lf:lane:{LANE}:over:1:acme": [message("a", "acme")],
        },
        then={
            LANE: [message("a", "acme")],
            PLACED: {"acme": "1"},
            COUNTS: {"acme": "1"},
            IN_FLIGHT: {"acme": "1"},
            f"lf:lane:{LANE}:over": None,
            f"lf:lane:{LANE}:over:1:acme": None,
        },
    ),
    Case(
        "a follower's deadline passed",
        CALL,
        [0, 0, -1],
        given={
            **led("b", "a"),
            "lf:job:a": follower_record("b", deadline_ms=5),
            "lf:job:b": f"q {LANE} 1",
            KEYS.followers: Z({"a": 5}),
        },
        then={
            "lf:job:a": None,
            f"{FOLLOWERS}b": None,
            KEYS.followers: None,
            KEYS.stats: {"expired": "1"},
            "celery-task-meta-a": Says("REVOKED", state="expired"),
        },
        moves="w->settled",
        published=["celery-task-meta-a"],
    ),
    Case(
        "one whose message still waits leaves a record for it",
        CALL,
        [0, 0, -1],
        given={
            **led("b", "a", waits="a"),
            "lf:job:a": follower_record("b", deadline_ms=5),
            "lf:job:b": f"q {LANE} 1",
            KEYS.followers: Z({"a": 5}),
        },
        then={
            "lf:job:a": f"x {LANE} 1",
            f"{FOLLOWERS}b": None,
            KEYS.followers: None,
            KEYS.stats: {"expired": "1"},
            "celery-task-meta-a": Says("REVOKED", state="expired"),
        },
        moves="w->x",
        published=["celery-task-meta-a"],
    ),
    Case(
        "one whose leader began in time may end",
        CALL,
        [0, 0, -1],
        given={
            **together(led("b", "a"), leased("b", "t1:1")),
            "lf:job:a": follower_record("b", deadline_ms=5),
            KEYS.followers: Z({"a": 5}),
        },
        then={KEYS.followers: Z({"a": float("inf")})},
    ),
    Case(
        "a stranger ran their leader, so one of them leads",
        CALL,
        [0, 0, -1],
        given={**led("b", "a", "c"), "celery-task-meta-b": result("b"), "lf:job:b": f"q {LANE} 1"},
        then={
            "lf:job:a": promoted_record(),
            "lf:job:c": follower_record("a"),
            LANE: [message("a")],
            f"{FOLLOWERS}b": None,
            f"{FOLLOWERS}a": {"": f"1 0 {LANE}:{DIGEST}", "c": f"1 0 {message('c')}"},
            KEYS.followers: Z({"c": float("inf")}),
            FLIGHT: "1 0 a",
        },
        moves="w->q, w->w",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_reap(redis_client: Redis, case: Case) -> None:
    check(redis_client, "reap", case)
