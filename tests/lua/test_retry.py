"""retry.lua: jobs wait until later, and are charged or not."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import (
    KEYS,
    LANE,
    NOW_MS,
    Case,
    Z,
    check,
    leased,
    message,
    says,
    waiting_record,
)

GONE = {KEYS.unacked: None, KEYS.index: None}
MEMBER = f"1:{message('a')}"

CASES = [
    Case("the lease is gone", [LANE, "t1:1", "a", 7, "", "", "", "1"], 0),
    Case(
        "an ETA gives the attempt back",
        [LANE, "t1:1", "a", 7, "", "", "", "1"],
        1,
        given=leased("a", "t1:1"),
        then={**GONE, KEYS.delayed: Z({MEMBER: 7}), "lf:job:a": waiting_record()},
        moves="r->q",
    ),
    Case(
        "a failed attempt counts, and its first failure says something of the model",
        [LANE, "t1:1", "a", "", 1000, "it broke", "", ""],
        1,
        given=leased("a", "t1:1"),
        then={
            **GONE,
            KEYS.delayed: Z({MEMBER: NOW_MS}),
            "lf:job:a": waiting_record(attempts=1, error="it broke"),
            KEYS.stats: {"model_failed": "1", "retried": "1"},
        },
        moves="r->q",
    ),
    Case(
        "which is its tenant's",
        [LANE, "t1:1", "a", "", 1000, "it broke", "", ""],
        1,
        given={**leased("a", "t1:1", "acme"), KEYS.failures: {"acme": "4", "beta": "1"}},
        then={
            **GONE,
            KEYS.delayed: Z({f"1:{message('a', 'acme')}": NOW_MS}),
            "lf:job:a": waiting_record(attempts=1, error="it broke", tenant="acme"),
            KEYS.failures: {"acme": "5", "beta": "1"},
            KEYS.stats: {"model_failed": "1", "retried": "1"},
        },
        moves="r->q",
    ),
    Case(
        "an input that could not be read charges a suspect with nothing",
        [LANE, "t1:1", "a", "", 0, "", "1", ""],
        1,
        given=leased("a", "t1:1", attempts=1, deliveries=4),
        then={
            **GONE,
            KEYS.delayed: Z({MEMBER: NOW_MS}),
            "lf:job:a": waiting_record(attempts=1, deliveries=3),
            KEYS.stats: {"retried": "1"},
        },
        moves="r->q",
    ),
    Case(
        "an input that could not be read gives a fresh job its attempt back",
        [LANE, "t1:1", "a", "", 0, "", "1", "1"],
        1,
        given=leased("a", "t1:1"),
        then={
            **GONE,
            KEYS.delayed: Z({MEMBER: NOW_MS}),
            "lf:job:a": waiting_record(),
            KEYS.stats: {"retried": "1"},
        },
        moves="r->q",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_retry(redis_client: Redis, case: Case) -> None:
    check(redis_client, "retry", case)
