"""note_attempts.lua: the log of a delivery is written by who holds it."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import Case, State, check, says

LEASES = "lf:lane:~webhook:unacked"
KEYS = (LEASES,)
MADE = {"created": "1", "state": "pending"}
GIVEN: State = {
    LEASES: {"t1": "message", "t2": "message"},
    "lf:delivery:a": MADE,
    "lf:delivery:b": MADE,
}

CASES = [
    Case(
        "both are held",
        ["t1", "lf:delivery:a", "dead", 3, "[1]", "t2", "lf:delivery:b", "pending", 1, "[2]"],
        [],
        given=GIVEN,
        then={
            "lf:delivery:a": {"created": "1", "state": "dead", "tries": "3", "log": "[1]"},
            "lf:delivery:b": {"created": "1", "state": "pending", "tries": "1", "log": "[2]"},
        },
        keys=KEYS,
    ),
    Case(
        "another courier has the first",
        ["t0", "lf:delivery:a", "dead", 3, "[1]", "t2", "lf:delivery:b", "delivered", 1, "[2]"],
        [0],
        given=GIVEN,
        then={"lf:delivery:b": {"created": "1", "state": "delivered", "tries": "1", "log": "[2]"}},
        keys=KEYS,
    ),
    Case(
        "it is kept no more",
        ["t1", "lf:delivery:c", "dead", 3, "[1]"],
        [0],
        given=GIVEN,
        keys=KEYS,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_note_attempts(redis_client: Redis, case: Case) -> None:
    check(redis_client, "note_attempts", case)
