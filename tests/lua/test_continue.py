"""continue.lua: successors are pushed with the removal of the entry that they come from."""

from __future__ import annotations

import pytest
from redis import Redis

from common.redis.keys import OUTBOX
from common.redis.scripts import Scripts
from tests.lua.cases import dump, fill

ENTRY, OTHER = {"id": "a", "meta": "{}", "next": "{}"}, {"id": "b", "meta": "{}", "next": "{}"}
CHORD = "celery-taskset-meta-g"
PARTS = {f"{CHORD}.s": "2", f"{CHORD}.t": "0", f"{CHORD}.d": "x", f"{CHORD}.j": "x"}


def run(client: Redis, *words: str | int, given: dict[str, object] | None = None) -> int:
    fill(client, {OUTBOX: [ENTRY, OTHER], **(given or {})})
    client.xgroup_create(OUTBOX, "g", 0)
    client.xreadgroup("g", "me", {OUTBOX: ">"})
    return int(Scripts(client).run("continue", (), words))


def test_successors_are_pushed_once(redis_client: Redis) -> None:
    words = ("1-0", "g", "", "", 0, "echo", "m1", "other", "m2", "echo", "m3")
    assert run(redis_client, *words) == 1
    pushed = {OUTBOX: [OTHER], "echo": ["m3", "m1"], "other": ["m2"]}
    assert dump(redis_client) == pushed
    assert Scripts(redis_client).run("continue", (), words) == 0
    assert dump(redis_client) == pushed


def test_an_entry_may_lead_to_nothing(redis_client: Redis) -> None:
    assert run(redis_client, "2-0", "g", "", "", 0) == 1
    assert dump(redis_client) == {OUTBOX: [ENTRY]}


def test_an_entry_that_nobody_was_given_leads_to_nothing(redis_client: Redis) -> None:
    assert run(redis_client, "3-0", "g", "", "", 0, "echo", "m1") == 0
    assert "echo" not in dump(redis_client)


@pytest.mark.parametrize("holder", ["mine", "another's", None])
def test_a_chord_is_done_by_who_holds_its_claim(redis_client: Redis, holder: str | None) -> None:
    claim = {f"{CHORD}.c": holder} if holder else {}
    done = run(
        redis_client, "1-0", "g", "mine", CHORD, 300, "echo", "body", given={**PARTS, **claim}
    )
    if holder == "mine":
        assert done == 1
        assert dump(redis_client) == {OUTBOX: [OTHER], "echo": ["body"], f"{CHORD}.c": "done"}
        assert 200 < redis_client.ttl(f"{CHORD}.c") <= 300  # type: ignore[operator]
    else:
        assert done == -1
        assert dump(redis_client) == {OUTBOX: [ENTRY, OTHER], **PARTS, **claim}
