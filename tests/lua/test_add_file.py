"""add_file.lua: a file becomes visible once, within its tenant's bounds."""

from __future__ import annotations

import pytest
from redis import Redis

from common.redis.scripts import Scripts
from tests.lua.cases import Case, State, Z, check, says

KEYS = ("lf:file:f", "lf:file-parts:f", "lf:file-list:acme", "lf:file-bytes:acme", "lf:file-expiry")
PARTS: State = {"lf:file-parts:f": ["f-1 10"]}
OTHER: State = {"lf:file-list:acme": Z({"o": 1}), "lf:file-bytes:acme": {"o": "90"}}


def call(max_files: int = 0, max_bytes: int = 0) -> list[object]:
    return ["f", 5, 9, 10, max_files, max_bytes, "id", "f", "bytes", 10]


CASES = [
    Case(
        "its parts are stored",
        call(2, 100),
        1,
        given={**PARTS, **OTHER},
        then={
            "lf:file:f": {"id": "f", "bytes": "10"},
            "lf:file-list:acme": Z({"o": 1, "f": 5}),
            "lf:file-bytes:acme": {"o": "90", "f": "10"},
            "lf:file-expiry": Z({"f": 9}),
        },
        keys=KEYS,
    ),
    Case("it is visible already", call(), 1, given={"lf:file:f": {"id": "f"}}, keys=KEYS),
    Case("its parts are gone", call(), 0, keys=KEYS),
    Case("there are too many files", call(1), -1, given={**PARTS, **OTHER}, keys=KEYS),
    Case("there are too many bytes", call(0, 99), -2, given={**PARTS, **OTHER}, keys=KEYS),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_add_file(redis_client: Redis, case: Case) -> None:
    check(redis_client, "add_file", case)


def test_parts_do_not_expire_any_more(redis_client: Redis) -> None:
    redis_client.flushall()
    redis_client.rpush("lf:file-parts:f", "f-1 10")
    redis_client.expire("lf:file-parts:f", 100)
    assert Scripts(redis_client).run("add_file", KEYS, call()) == 1  # type: ignore[arg-type]
    assert redis_client.ttl("lf:file-parts:f") == -1
