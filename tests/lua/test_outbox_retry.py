"""outbox_retry.lua: entries that were given up are in the outbox again, each once."""

from __future__ import annotations

from redis import Redis

from common.redis.keys import OUTBOX, OUTBOX_FAILED
from common.redis.scripts import Scripts
from tests.lua.cases import dump, fill

ENTRY, OTHER = {"id": "a", "meta": "{}", "next": "{}"}, {"id": "b", "meta": "{}", "next": "{}"}
WHY = {"error": "no such queue"}


def test_they_go_back_without_their_error_and_others_stay(redis_client: Redis) -> None:
    fill(redis_client, {OUTBOX: [OTHER], OUTBOX_FAILED: [ENTRY | WHY, OTHER | WHY]})
    run = Scripts(redis_client).run
    assert run("outbox_retry", (), ("1-0", "9-9")) == 1
    assert dump(redis_client) == {OUTBOX: [OTHER, ENTRY], OUTBOX_FAILED: [OTHER | WHY]}
    assert run("outbox_retry", (), ("1-0",)) == 0
    assert len(redis_client.xrange(OUTBOX)) == 2  # type: ignore[arg-type]


def test_there_may_be_none(redis_client: Redis) -> None:
    redis_client.flushall()
    assert Scripts(redis_client).run("outbox_retry", (), ("1-0",)) == 0
    assert dump(redis_client) == {}
