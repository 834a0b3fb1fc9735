"""claim_idempotency_key.lua: the first claim stands."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import Case, check, says

CLAIM = "lf:idempotency:acme:d"

CASES = [
    Case("it is free", ["f id", 60], "f id", then={CLAIM: "f id"}, keys=[CLAIM]),
    Case("somebody holds it", ["g id2", 60], "f id", given={CLAIM: "f id"}, keys=[CLAIM]),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_claim_idempotency_key(redis_client: Redis, case: Case) -> None:
    check(redis_client, "claim_idempotency_key", case)
