"""say.lua: an entry of each job's stream, told to who listens, and nothing of who is fenced."""

from __future__ import annotations

import pytest
from redis import Redis

from common.redis.keys import said_key
from common.redis.scripts import Scripts
from tests.lua.cases import KEYS, Case, check, leased, says, together

CASES = [
    Case("nothing is held", ["t1:1", "a", 1, 60, "{}"], [0]),
    Case(
        "one is held and one is gone",
        ["t1:1", "a", 1, 60, '{"c":1}', "t2:1", "b", 4, 60, "{}"],
        [1],
        given=leased("a", "t1:1"),
        then={said_key("a"): [{"d": '{"c":1}'}]},
        published=[said_key("a")],
    ),
    Case(
        "another worker goes on after the last entry",
        ["t1:1", "a", 2, 60, "second", "t2:1", "b", 1, 60, "other"],
        [],
        given={
            **together(leased("a", "t1:1"), leased("b", "t2:1")),
            said_key("a"): [{"d": "first"}],
        },
        then={said_key("a"): [{"d": "first"}, {"d": "second"}], said_key("b"): [{"d": "other"}]},
        published=[said_key("a"), said_key("b")],
    ),
    Case(
        "an entry that is there is told again and not written again",
        ["t1:1", "a", 1, 60, "first"],
        [],
        given={**leased("a", "t1:1"), said_key("a"): [{"d": "first"}]},
        published=[said_key("a")],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_say(redis_client: Redis, case: Case) -> None:
    check(redis_client, "say", case)


def test_a_stream_leaves_some_time_after_its_last_entry(redis_client: Redis) -> None:
    redis_client.flushdb()
    redis_client.hset(KEYS.unacked, "t1:1", "message")
    for number, ttl in ((1, 60), (2, 7)):
        args = ["t1:1", "a", number, ttl, "{}"]
        assert Scripts(redis_client).run("say", KEYS.as_list(), args) == []
        assert ttl - 1 <= int(redis_client.ttl(said_key("a"))) <= ttl  # type: ignore[arg-type]
    assert [one for one, _ in redis_client.xrange(said_key("a"))] == [b"1-0", b"2-0"]  # type: ignore[union-attr]


def test_what_cannot_be_written_is_an_error(redis_client: Redis) -> None:
    redis_client.flushdb()
    redis_client.hset(KEYS.unacked, "t1:1", "message")
    redis_client.set(said_key("a"), "no stream")
    with pytest.raises(Exception, match="WRONGTYPE"):
        Scripts(redis_client).run("say", KEYS.as_list(), ["t1:1", "a", 1, 60, "{}"])
