"""dead_letters.lua: what is said of dead letters, without their messages."""

from __future__ import annotations

import pytest
from redis import Redis

from common.redis.scripts import Scripts
from tests.lua.cases import KEYS, Case, check, says

CASES = [
    Case("it is gone", ["a"], [""]),
    Case(
        "the first line of each",
        ["a", "z", "b"],
        ['{"id":"a"}', "", '{"id":"b"}'],
        given={KEYS.letters: {"a": '{"id":"a"}\nmessage', "b": '{"id":"b"}\n{}\n{}'}},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_dead_letters(redis_client: Redis, case: Case) -> None:
    check(redis_client, "dead_letters", case)


def test_large_ones_are_left_to_another_call(redis_client: Redis) -> None:
    redis_client.flushall()
    redis_client.hset(KEYS.letters, "a", '{"id":"a"}\n' + "x" * 1_000_000)
    found = Scripts(redis_client).run("dead_letters", KEYS.as_list(), ["a"] * 4_000)
    assert found == [b'{"id":"a"}'] * 4
