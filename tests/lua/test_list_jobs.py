"""list_jobs.lua: a page of a tenant's jobs, newest first."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from common.redis.scripts import Scripts
from tests.lua.cases import LANE, fill, leased_record, plain, result

STATE = {
    "lf:jobs:acme:count": "5",
    "celery-task-meta-a": result("a", tenant="acme"),
    "lf:job:b": leased_record("t1:1", "acme"),
    "lf:job:d": f"q {LANE} 30:acme",
    "celery-task-meta-e": '{"status": "REVOKED", "task_id": "e"}',
}
"""Of five jobs, taken in by two calls; c is forgotten, and a stranger ended e."""
ENTRIES = {"3-0": {LANE: "10 a b c"}, "5-0": {LANE: "30 d", "other": "30 e"}}
ABOUT_A = '{"status":"","lanefleet":{"state":"succeeded",'


def page(client: Redis, *words: Any) -> tuple[int, list[str]]:
    """Below, limit, looks, lane, state, after and before: the next page's number, and ids."""
    fill(client, STATE)
    for number, fields in ENTRIES.items():
        client.xadd("lf:jobs:acme", fields, id=number)  # type: ignore[arg-type]
    below, *found = plain(Scripts(client).run("list_jobs", (), ("acme", *words, "")))
    return below, found[::4]


PAGES = [
    ("all of them, newest first", (0, 9, 99, "", "", 0, 0), (0, ["e", "d", "b", "a"])),
    ("a page of two", (0, 2, 99, "", "", 0, 0), (4, ["e", "d"])),
    ("the next", (4, 2, 99, "", "", 0, 0), (0, ["b", "a"])),
    ("within an entry", (3, 1, 99, "", "", 0, 0), (2, ["b"])),
    ("no more than may be looked at", (0, 9, 2, "", "", 0, 0), (4, ["e", "d"])),
    ("of one lane", (0, 9, 99, "other", "", 0, 0), (0, ["e"])),
    ("in one state", (0, 9, 99, "", "running", 0, 0), (0, ["b"])),
    ("that succeeded", (0, 9, 99, "", "succeeded", 0, 0), (0, ["a"])),
    ("that a stranger ended", (0, 9, 99, "", "canceled", 0, 0), (0, ["e"])),
    ("that are not settled", (0, 9, 99, "", "open", 0, 0), (0, ["d", "b"])),
    ("created after a moment", (0, 9, 99, "", "", 20, 0), (0, ["e", "d"])),
    ("created before a moment", (0, 9, 99, "", "", 0, 20), (0, ["b", "a"])),
]


@pytest.mark.parametrize(("says", "words", "expected"), PAGES, ids=[one[0] for one in PAGES])
def test_list_jobs(
    redis_client: Redis, says: str, words: tuple[Any, ...], expected: tuple[int, list[str]]
) -> None:
    assert page(redis_client, *words) == expected


def test_a_page_says_of_a_result_all_but_the_result_itself(redis_client: Redis) -> None:
    page(redis_client, 0, 9, 99, "", "", 0, 0)
    reply = plain(Scripts(redis_client).run("list_jobs", (), ("acme", 4, 9, 99, "", "", 0, 0, "")))
    assert reply[1:4] == ["b", leased_record("t1:1", "acme"), ""]
    assert reply[5:7] == ["a", ""]
    assert reply[7].startswith(ABOUT_A)


LABELED = {
    "2-0": {f"{LANE} run=1,team=a": "10 a b"},
    "4-0": {f"{LANE} run=1": "20 c", LANE: "20 d"},
    "5-0": {"other run=11": "30 e"},
}


@pytest.mark.parametrize(
    ("lane", "labels", "expected"),
    [
        ("", "", "edcba"),
        ("", "run=1", "cba"),
        ("", "run=1,team=a", "ba"),
        ("", "team=b", ""),
        ("other", "run=11", "e"),
        (LANE, "", "dcba"),
    ],
)
def test_jobs_are_found_by_all_of_their_labels(
    redis_client: Redis, lane: str, labels: str, expected: str
) -> None:
    fill(redis_client, {f"lf:job:{name}": f"q {LANE} 10:acme" for name in "abcde"})
    redis_client.set("lf:jobs:acme:count", 5)
    for number, fields in LABELED.items():
        redis_client.xadd("lf:jobs:acme", fields, id=number)  # type: ignore[arg-type]
    words = ("acme", 0, 9, 99, lane, "", 0, 0, labels)
    reply = plain(Scripts(redis_client).run("list_jobs", (), words))
    assert "".join(reply[1::4]) == expected
    if expected == "cba":
        assert reply[4::4] == ["run=1", "run=1,team=a", "run=1,team=a"]
