"""dead_purge.lua: dead letters go for good."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import KEYS, Case, Z, check, says

GIVEN = {
    KEYS.dead: Z({"a": 1, "b": 2}),
    KEYS.letters: {"a": "{}", "b": "{}"},
    "lf:blob:a": "large",
    "lf:blob:c": "another's",
}

CASES = [
    Case("there are none", [], 0),
    Case(
        "some, and one that is not there",
        ["a", "c"],
        1,
        given=GIVEN,
        then={KEYS.dead: Z({"b": 2}), KEYS.letters: {"b": "{}"}, "lf:blob:a": None},
    ),
    Case(
        "all of them",
        [],
        2,
        given=GIVEN,
        then={KEYS.dead: None, KEYS.letters: None, "lf:blob:a": None},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_dead_purge(redis_client: Redis, case: Case) -> None:
    check(redis_client, "dead_purge", case)
