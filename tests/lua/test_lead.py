"""lead.lua: what leased jobs lead to is kept for whoever settles them."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import Case, check, leased, says

CASES = [
    Case("the lease is gone", ["t1:1", "a", "{}"], 0),
    Case(
        "one is held and one is gone",
        ["t1:1", "a", '{"n":1}', "t2:1", "b", '{"n":2}'],
        1,
        given=leased("a", "t1:1"),
        then={"lf:next:a": '{"n":1}'},
    ),
    Case(
        "a job that is leased again brings it again",
        ["t1:1", "a", '{"n":1}'],
        1,
        given={**leased("a", "t1:1"), "lf:next:a": '{"n":0}'},
        then={"lf:next:a": '{"n":1}'},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_lead(redis_client: Redis, case: Case) -> None:
    check(redis_client, "lead", case)
