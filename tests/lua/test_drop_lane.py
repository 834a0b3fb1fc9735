"""drop_lane.lua: what a lane holds that nobody serves is canceled."""

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
    TTL,
    Case,
    Like,
    Says,
    Z,
    check,
    leased,
    led,
    message,
    result,
    says,
)

DROPPED = Says("REVOKED", state="canceled", reason="lane_dropped")
OVER = f"lf:lane:{LANE}:over"
ONE = {KEYS.stats: {"canceled": "1"}}


def meta(job_id: str) -> str:
    return f"celery-task-meta-{job_id}"


def call(limit: int = 10) -> list[object]:
    """The words of one call."""
    return [LANE, limit, TTL]


CASES = [
    Case("an empty lane has nothing", call(), [0, 0]),
    Case(
        "what waits, is delayed or was leased is canceled",
        call(),
        [4, 4],
        given={
            KEYS.bands[1]: [message("a")],
            KEYS.delayed: Z({f"1:{message('b')}": 5}),
            **leased("c", "t1:1"),
            OVER: {"1:acme": "1", "1:": "1"},
            f"{OVER}:1:acme": [message("d", "acme")],
            PLACED: {"acme": "1"},
            "lf:job:a": f"q {LANE} 1",
            "lf:job:b": f"q {LANE} 1",
            "lf:job:d": f"q {LANE} 1:acme",
            COUNTS: {"acme": "1"},
            IN_FLIGHT: {"acme": "1"},
        },
        then={
            **{f"lf:job:{one}": None for one in "abcd"},
            **{meta(one): DROPPED for one in "abcd"},
            KEYS.bands[1]: None,
            KEYS.delayed: None,
            KEYS.unacked: None,
            KEYS.index: None,
            OVER: None,
            f"{OVER}:1:acme": None,
            PLACED: None,
            COUNTS: None,
            IN_FLIGHT: None,
            KEYS.stats: {"canceled": "4"},
        },
        moves="q->settled, r->settled",
        published=[meta(one) for one in "abcd"],
    ),
    Case(
        "no more than asked for",
        call(1),
        [1, 1],
        given={LANE: [message("b"), message("a")], "lf:job:a": f"q {LANE} 1"},
        then={LANE: [message("b")], "lf:job:a": None, meta("a"): DROPPED, **ONE},
        moves="q->settled",
        published=[meta("a")],
    ),
    Case(
        "what another Celery client sent is canceled too",
        call(),
        [1, 1],
        given={LANE: [message("a")]},
        then={LANE: None, meta("a"): DROPPED, **ONE},
        moves="none->settled",
        published=[meta("a")],
    ),
    Case(
        "one that has ended keeps its result",
        call(),
        [3, 0],
        given={
            LANE: [message("a"), message("b"), "{}"],
            "lf:job:a": f"x {LANE} 1:acme",
            meta("a"): result("a"),
            meta("b"): result("b"),
            COUNTS: {"acme": "1"},
            IN_FLIGHT: {"acme": "1"},
        },
        then={LANE: None, "lf:job:a": None, COUNTS: None, IN_FLIGHT: None},
        moves="x->settled",
    ),
    Case(
        "followers end with their leader",
        call(1),
        [1, 3],
        given={
            LANE: [message("c"), message("a")],
            "lf:job:a": f"q {LANE} 1:acme",
            COUNTS: {"acme": "1"},
            IN_FLIGHT: {"acme": "1"},
            **led("a", "b", "c"),
            f"{FOLLOWERS}a": {"": f"1 0 {LANE}:{DIGEST}", "b": f"1 0 {message('b')}", "c": "1 0 "},
        },
        then={
            LANE: [message("c")],
            "lf:job:a": None,
            "lf:job:b": None,
            "lf:job:c": Like("x .*"),
            meta("a"): Says("REVOKED", state="canceled", created_ms=1, tenant="acme"),
            **{meta(one): Says("REVOKED", created_ms=1, tenant=None) for one in "bc"},
            COUNTS: None,
            IN_FLIGHT: None,
            KEYS.followers: None,
            f"{FOLLOWERS}a": None,
            FLIGHT: None,
            KEYS.stats: {"canceled": "1", "shared": "2"},
        },
        moves="q->settled, w->settled, w->x",
        published=[meta(one) for one in "abc"],
    ),
    Case(
        "a follower is not told its leader's tenant",
        call(),
        [1, 2],
        given={
            **leased("a", "t1:1", "acme"),
            **led("a", "b"),
            COUNTS: {"acme": "1"},
            IN_FLIGHT: {"acme": "1"},
        },
        then={
            "lf:job:a": None,
            "lf:job:b": None,
            meta("a"): Says("REVOKED", state="canceled", tenant="acme"),
            meta("b"): Says("REVOKED", state="canceled", tenant=None, created_ms=1),
            KEYS.unacked: None,
            KEYS.index: None,
            KEYS.followers: None,
            f"{FOLLOWERS}a": None,
            FLIGHT: None,
            COUNTS: None,
            IN_FLIGHT: None,
            KEYS.stats: {"canceled": "1", "shared": "1"},
        },
        moves="r->settled, w->settled",
        published=[meta("a"), meta("b")],
    ),
    Case(
        "one whose leader has another turn ends alone",
        call(1),
        [1, 1],
        given={
            KEYS.bands[3]: [message("b")],
            **leased("a", "t1:1"),
            **led("a", "b", "c"),
            f"{FOLLOWERS}a": {"": f"1 0 {LANE}:{DIGEST}", "b": "4 0 ", "c": f"1 0 {message('c')}"},
        },
        then={
            KEYS.bands[3]: None,
            "lf:job:b": None,
            meta("b"): DROPPED,
            KEYS.followers: Z({"c": float("inf")}),
            f"{FOLLOWERS}a": {"": f"1 0 {LANE}:{DIGEST}", "c": f"1 0 {message('c')}"},
            **ONE,
        },
        moves="w->settled",
        published=[meta("b")],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_drop_lane(redis_client: Redis, case: Case) -> None:
    check(redis_client, "drop_lane", case)
