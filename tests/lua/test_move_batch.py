"""move_batch.lua: a batch is changed by who holds it, from where it was known to be."""

from __future__ import annotations

import pytest
from redis import Redis

from common.redis.keys import EVENTS
from common.redis.scripts import Scripts
from common.webhooks.events import EVERY_ENDPOINT, Event, read_entry
from tests.lua.cases import Case, State, Z, check, says

BATCH = "lf:batch:b"
KEYS = (BATCH, "lf:batches", "lf:batch-open:acme")
OPEN: State = {
    BATCH: {"status": "in_progress", "owner": "me", "line": "7"},
    "lf:batches": Z({"b": 1}),
    "lf:batch-open:acme": Z({"b": 1}),
}


def call(owner: str = "me", line: object = 7, states: str = " in_progress ") -> list[object]:
    return ["b", owner, states, line, 1, 60, "acme", "", "lf:file-parts:o", "o-1 5", "line", 9]


CASES = [
    Case(
        "it is as its holder knows it",
        call(),
        1,
        given=OPEN,
        then={
            BATCH: {"status": "in_progress", "owner": "me", "line": "9"},
            "lf:file-parts:o": ["o-1 5"],
        },
        keys=KEYS,
    ),
    Case("another holds it", call("you"), 0, given=OPEN, keys=KEYS),
    Case("it is at another line", call(line=6), 0, given=OPEN, keys=KEYS),
    Case("it is in another state", call(states=" progress "), 0, given=OPEN, keys=KEYS),
    Case("it is unknown", call(), 0, keys=KEYS),
    Case(
        "anyone may cancel it",
        ["b", "", " validating in_progress ", "", 0, 60, "acme", "", "status", "cancelling"],
        1,
        given=OPEN,
        then={BATCH: {"status": "cancelling", "owner": "me", "line": "7"}},
        keys=KEYS,
    ),
    Case(
        "it ends",
        ["b", "me", " in_progress ", "", 0, 60, "acme", "", "status", "expired"],
        1,
        given=OPEN,
        then={
            BATCH: {"status": "expired", "owner": "me", "line": "7"},
            "lf:batches": None,
            "lf:batch-open:acme": None,
        },
        keys=KEYS,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_move_batch(redis_client: Redis, case: Case) -> None:
    check(redis_client, "move_batch", case)


def test_its_completion_is_one_event(redis_client: Redis) -> None:
    redis_client.flushall()
    redis_client.hset(BATCH, mapping={"status": "finalizing", "owner": "me", "line": "7"})
    args = ["b", "me", " finalizing ", "", 0, 60, "acme", "{}", "status", "completed"]
    run = Scripts(redis_client).run
    assert [run("move_batch", KEYS, args) for _ in range(2)] == [1, 0]
    ((_, fields),) = redis_client.xrange(EVENTS)  # type: ignore[misc]
    event = read_entry(fields, 0, "")
    assert event == Event("batch.completed", "acme", "b", EVERY_ENDPOINT, b"{}")
    assert redis_client.ttl(BATCH) > 0  # type: ignore[operator]
