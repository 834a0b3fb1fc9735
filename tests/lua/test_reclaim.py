"""reclaim.lua: what a lost answer leased comes back, in its order."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import (
    KEYS,
    LANE,
    Case,
    check,
    leased,
    message,
    says,
    together,
    waiting_record,
)

CASES = [
    Case("nothing was leased", [LANE, "n.1.", 2], 0),
    Case(
        "all come back, in front of who waits; a suspect keeps its attempts",
        [LANE, "n.1.", 3],
        2,
        given=together(
            {LANE: [message("c")]},
            leased("a", "n.1.000001:1"),
            leased("b", "n.1.000002:1", attempts=2, deliveries=1),
        ),
        then={
            KEYS.unacked: None,
            KEYS.index: None,
            LANE: [message("c"), message("b"), message("a")],
            "lf:job:a": waiting_record(),
            "lf:job:b": waiting_record(attempts=2, deliveries=1),
        },
        moves="r->q",
    ),
    Case(
        "another call's lease stays",
        [LANE, "n.2.", 3],
        0,
        given=leased("a", "n.1.000001:1"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_reclaim(redis_client: Redis, case: Case) -> None:
    check(redis_client, "reclaim", case)
