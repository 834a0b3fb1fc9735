"""move_breaker.lua: one of many observers moves it, and probes are counted."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import KEYS, Case, check, says

BREAKER = KEYS.breaker
OPEN = {BREAKER: {"state": "open", "probes": "0"}}

CASES = [
    Case("the first to move it", ["", "open", 0, ""], 1, then=OPEN, keys=[BREAKER]),
    Case("another was first", ["", "open", 0, ""], 0, given=OPEN, keys=[BREAKER]),
    Case(
        "a probe is taken",
        ["open", "", 1, ""],
        1,
        given=OPEN,
        then={BREAKER: {"state": "open", "probes": "1"}},
        keys=[BREAKER],
    ),
    Case(
        "a tenant's own is beside the lane's",
        ["", "open", 0, "acme"],
        1,
        given={BREAKER: {"state": "half-open", "probes": "2"}},
        then={
            BREAKER: {
                "state": "half-open",
                "probes": "2",
                "state:acme": "open",
                "probes:acme": "0",
            }
        },
        keys=[BREAKER],
    ),
    Case(
        "and has probes of its own",
        ["open", "", 1, "acme"],
        1,
        given={BREAKER: {"state": "half-open", "probes": "2", "state:acme": "open"}},
        then={
            BREAKER: {
                "state": "half-open",
                "probes": "2",
                "state:acme": "open",
                "probes:acme": "1",
            }
        },
        keys=[BREAKER],
    ),
    Case(
        "none is left",
        ["open", "", 1, ""],
        0,
        given={BREAKER: {"state": "open", "probes": "1"}},
        then={BREAKER: {"state": "open", "probes": "2"}},
        keys=[BREAKER],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_move_breaker(redis_client: Redis, case: Case) -> None:
    check(redis_client, "move_breaker", case)
