"""renew.lua: leases that are still held get a new time."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import FAR_MS, KEYS, Case, Within, Z, check, leased, says, together

SOON_SECONDS = Within(1_700_000_000, FAR_MS / 1000)

CASES = [
    Case("nothing is held", ["30000", "t1:1"], ["t1:1"]),
    Case(
        "one is held and one is gone",
        ["30000", "t1:1", "t2:1"],
        ["t2:1"],
        given={**leased("a", "t1:1"), KEYS.index: Z({"t1:1": 5})},
        then={KEYS.index: Z({"t1:1": SOON_SECONDS})},
    ),
    Case(
        "those that nobody names keep theirs",
        ["30000", "t1:1"],
        [],
        given=together(leased("a", "t1:1"), leased("b", "t2:1")),
        then={KEYS.index: Z({"t1:1": SOON_SECONDS, "t2:1": FAR_MS})},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_renew(redis_client: Redis, case: Case) -> None:
    check(redis_client, "renew", case)
