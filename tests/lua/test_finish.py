"""finish.lua: results are published once, and followers get them too."""

from __future__ import annotations

import pytest
from redis import Redis

from common.redis.keys import OUTBOX
from common.redis.scripts import Scripts
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
    fill,
    follower_record,
    leased,
    led,
    message,
    promoted_record,
    result,
    says,
    together,
)

META_A, META_B, META_C = (f"celery-task-meta-{one}" for one in "abc")
GONE = {"lf:job:a": None, KEYS.unacked: None, KEYS.index: None}
PER_FOLLOWER = ("cmdstat_set", "cmdstat_publish")
LEADS = [f"{LANE}:{DIGEST}", 10_000]

CASES = [
    Case(
        "what a job leads to is handed on with its result, by who holds it",
        [
            TTL,
            9,
            *("t1:1", "a", "{}", "", "", "", "", "", "1"),
            *("t2:1", "b", "{}", "", "", "", "", "", "1"),
        ],
        [1],
        given={**leased("a", "t1:1"), "lf:next:a": "steps", "lf:next:b": "its own"},
        then={
            **GONE,
            META_A: "{}",
            "lf:next:a": None,
            OUTBOX: [{"id": "a", "meta": "{}", "next": "steps"}],
            KEYS.stats: {"succeeded": "1", "fenced": "1"},
        },
        moves="r->settled",
        published=[META_A],
    ),
    Case(
        "a job that is said to lead to nothing is not asked about",
        [TTL, 8, "t1:1", "a", "{}", "", "", "", "", ""],
        [],
        given={**leased("a", "t1:1"), "lf:next:a": "steps"},
        then={**GONE, META_A: "{}", KEYS.stats: {"succeeded": "1"}},
        moves="r->settled",
        published=[META_A],
    ),
    Case(
        "a lease that is gone is fenced",
        [TTL, 3, "t1:1", "a", "{}", "t2:1", "b", "{}"],
        [0],
        given=leased("b", "t2:1"),
        then={
            "lf:job:b": None,
            KEYS.unacked: None,
            KEYS.index: None,
            META_B: "{}",
            KEYS.stats: {"succeeded": "1", "fenced": "1"},
        },
        moves="r->settled",
        published=[META_B],
    ),
    Case(
        "a tenant's job is counted out, in a call of four words a job",
        [TTL, 4, "t1:1", "a", "{}", "acme"],
        [],
        given={**leased("a", "t1:1", "acme"), COUNTS: {"acme": "2"}, IN_FLIGHT: {"acme": "1"}},
        then={
            **GONE,
            META_A: "{}",
            COUNTS: {"acme": "1"},
            IN_FLIGHT: None,
            KEYS.stats: {"succeeded": "1"},
        },
        moves="r->settled",
        published=[META_A],
    ),
    Case(
        "a failure of the model is counted as such, and the input goes",
        [TTL, 8, "t1:1", "a", "{}", "", "", "", "model", "1"],
        [],
        given={**leased("a", "t1:1"), "lf:blob:a": "large"},
        then={
            **GONE,
            META_A: "{}",
            "lf:blob:a": None,
            KEYS.stats: {"failed": "1", "model_failed": "1"},
        },
        moves="r->settled",
        published=[META_A],
    ),
    Case(
        "the model's failures are counted by tenant, and successes are not",
        [
            *(TTL, 8),
            *("t1:1", "a", "{}", "acme", "", "", "model", ""),
            *("t2:1", "b", "{}", "beta", "", "", "", ""),
            *("t3:1", "c", "{}", "acme", "", "", "model", ""),
        ],
        [],
        given=together(
            leased("a", "t1:1", "acme"), leased("b", "t2:1", "beta"), leased("c", "t3:1", "acme")
        ),
        then={
            **GONE,
            "lf:job:b": None,
            "lf:job:c": None,
            META_A: "{}",
            META_B: "{}",
            META_C: "{}",
            KEYS.failures: {"acme": "2"},
            KEYS.stats: {"succeeded": "1", "failed": "2", "model_failed": "2"},
        },
        moves="r->settled",
        published=[META_A, META_B, META_C],
    ),
    Case(
        "a success without followers serves those to come for a while",
        [TTL, 6, "t1:1", "a", result("a"), "", *LEADS],
        [],
        given={**leased("a", "t1:1"), FLIGHT: "1 0 a"},
        then={**GONE, META_A: result("a"), FLIGHT: "!a", KEYS.stats: {"succeeded": "1"}},
        moves="r->settled",
        published=[META_A],
    ),
    Case(
        "another leads the flight by now",
        [TTL, 6, "t1:1", "a", result("a"), "", *LEADS],
        [],
        given={**leased("a", "t1:1"), FLIGHT: "1 0 z"},
        then={**GONE, META_A: result("a"), KEYS.stats: {"succeeded": "1"}},
        moves="r->settled",
        published=[META_A],
    ),
    Case(
        "a follower gets the result as its own",
        [TTL, 6, "t1:1", "a", result("a", tenant="acme"), "", *LEADS],
        [],
        given=together(
            leased("a", "t1:1"),
            led("a", "b"),
            {"lf:job:b": follower_record("a", "beta"), COUNTS: {"beta": "1"}},
            {IN_FLIGHT: {"beta": "1"}, "lf:blob:b": "large"},
        ),
        then={
            **GONE,
            META_A: result("a", tenant="acme"),
            META_B: Says("SUCCESS", created_ms=1, tenant="beta", shared=True, finished_ms=5),
            FLIGHT: "!a",
            COUNTS: None,
            IN_FLIGHT: None,
            "lf:job:b": None,
            "lf:blob:b": None,
            f"{FOLLOWERS}a": None,
            KEYS.followers: None,
            KEYS.stats: {"succeeded": "1", "shared": "1"},
        },
        moves="r->settled, w->settled",
        published=[META_A, META_B],
    ),
    Case(
        "an overtaken one leaves a record for its message, and its own followers end as well",
        [TTL, 6, "t1:1", "a", result("a"), "", *LEADS],
        [],
        given=together(
            leased("a", "t1:1"),
            led("b", "c"),
            led("a", "b", waits="b"),
            {LANE: [message("b")]},
        ),
        then={
            **GONE,
            META_A: result("a"),
            META_B: Says("SUCCESS", shared=True),
            META_C: Says("SUCCESS", shared=True),
            FLIGHT: "!a",
            "lf:job:b": f"x {LANE} 1",
            "lf:job:c": None,
            f"{FOLLOWERS}a": None,
            f"{FOLLOWERS}b": None,
            KEYS.followers: None,
            KEYS.stats: {"succeeded": "1", "shared": "2"},
        },
        moves="r->settled, w->x, w->settled",
        published=[META_A, META_B, META_C],
    ),
    Case(
        "a fault of the input is the followers' too",
        [TTL, 8, "t1:1", "a", result("a"), "", *LEADS, "input", ""],
        [],
        given=together(leased("a", "t1:1"), led("a", "b")),
        then={
            **GONE,
            META_A: result("a"),
            META_B: Says("SUCCESS", shared=True),  # whatever the worker wrote
            FLIGHT: None,
            "lf:job:b": None,
            f"{FOLLOWERS}a": None,
            KEYS.followers: None,
            KEYS.stats: {"failed": "1", "shared": "1"},
        },
        moves="r->settled, w->settled",
        published=[META_A, META_B],
    ),
    Case(
        "another failure is the leader's alone: the first follower runs, the others follow it",
        [TTL, 8, "t1:1", "a", "{}", "", *LEADS, "other", ""],
        [],
        given=together(leased("a", "t1:1"), led("a", "b", "c")),
        then={
            **GONE,
            META_A: "{}",
            FLIGHT: "1 0 b",
            LANE: [message("b")],
            "lf:job:b": promoted_record(),
            "lf:job:c": follower_record("b"),
            f"{FOLLOWERS}a": None,
            f"{FOLLOWERS}b": {"": f"1 0 {LANE}:{DIGEST}", "c": f"1 0 {message('c')}"},
            KEYS.followers: Z({"c": float("inf")}),
            KEYS.stats: {"failed": "1"},
        },
        moves="r->settled, w->q, w->w",
        published=[META_A],
    ),
    Case(
        "a follower whose own deadline passed has expired",
        [TTL, 6, "t1:1", "a", result("a"), "", *LEADS],
        [],
        given={
            **together(leased("a", "t1:1"), led("a", "b")),
            FOLLOWERS + "a": {"": f"1 0 {LANE}:{DIGEST}", "b": f"1 5 {message('b')}"},
        },
        then={
            **GONE,
            META_A: result("a"),
            META_B: Says("REVOKED", state="expired"),
            FLIGHT: "!a",
            "lf:job:b": None,
            f"{FOLLOWERS}a": None,
            KEYS.followers: None,
            KEYS.stats: {"succeeded": "1", "expired": "1"},
        },
        moves="r->settled, w->settled",
        published=[META_A, META_B],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_finish(redis_client: Redis, case: Case) -> None:
    check(redis_client, "finish", case)


def test_few_tenants_are_counted_and_not_for_ever(redis_client: Redis) -> None:
    for number in range(101):
        fill(redis_client, leased("a", "t1:1", f"t{number}"))
        args = [TTL, 8, "t1:1", "a", "{}", f"t{number}", "", "", "model", ""]
        assert Scripts(redis_client).run("finish", KEYS.as_list(), args) == []
        assert redis_client.hget(KEYS.failures, f"t{number}") == b"1"
    assert redis_client.hlen(KEYS.failures) == 1, "they begin anew"
    assert 0 < redis_client.ttl(KEYS.failures) <= 3600


def test_a_full_flight_is_settled_in_a_call_of_bounded_length(redis_client: Redis) -> None:
    followers = [f"follower-{number:04}" for number in range(1000)]
    fill(redis_client, together(leased("a", "t1:1"), led("a", *followers)))
    args = [TTL, 6, "t1:1", "a", result("a"), "", *LEADS]
    redis_client.config_resetstat()
    assert Scripts(redis_client).run("finish", KEYS.as_list(), args) == []
    assert redis_client.hget(KEYS.stats, "shared") == b"1000"
    assert not redis_client.exists(
        f"{FOLLOWERS}a", KEYS.followers, *map("lf:job:{}".format, followers)
    )
    called = redis_client.info("commandstats")
    assert called["cmdstat_set"]["calls"] <= 1002, "one result each"
    others = sum(one["calls"] for name, one in called.items() if name not in PER_FOLLOWER)
    assert others < 60, "all else goes by thousands"
