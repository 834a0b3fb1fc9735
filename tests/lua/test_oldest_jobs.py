"""oldest_jobs.lua: when the oldest of the jobs that are served next came."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import KEYS, LANE, NOW_MS, Case, check, message, says

ETA = "2001-09-09T01:46:40Z"
ETA_MS = 1_000_000_000_000


def foreign(job_id: str, eta: str = "") -> str:
    """A message of another Celery client."""
    header = f', "eta": "{eta}"' if eta else ', "eta": null'
    return f'{{"body": "W10=", "headers": {{"id": "{job_id}"{header}}}, "properties": {{}}}}'


CASES = [
    Case("an empty lane has none", [8, LANE], [NOW_MS, 0, ""], keys=()),
    Case(
        "the oldest of all bands, though another is served first",
        [8, LANE],
        [NOW_MS, 20, ""],
        given={
            LANE: [message("b"), message("a")],
            KEYS.bands[2]: [message("c")],
            "lf:job:a": f"q {LANE} 30",
            "lf:job:b": f"q {LANE} 40:acme 50",
            "lf:job:c": f"q {LANE} 20",
        },
        keys=(),
    ),
    Case(
        "no more are looked at in a band than asked for, from the one that is served first",
        [1, LANE],
        [NOW_MS, 30, ""],
        given={
            LANE: [message("b"), message("a")],
            "lf:job:a": f"q {LANE} 30",
            "lf:job:b": f"q {LANE} 10",
        },
        keys=(),
    ),
    Case(
        "of what another client sent the head is named, and its ETA counts",
        [8, LANE, "other", "none"],
        [NOW_MS, 50, "a", ETA_MS, "", 0, ""],
        given={
            LANE: [message("b"), foreign("a")],
            "lf:job:b": f"q {LANE} 50",
            "other": [foreign("c", ETA)],
            "lf:job:c": "q other 7",
        },
        keys=(),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_oldest_jobs(redis_client: Redis, case: Case) -> None:
    check(redis_client, "oldest_jobs", case)


def test_large_messages_leave_the_other_lanes_to_the_next_call(redis_client: Redis) -> None:
    from common.redis.scripts import Scripts

    redis_client.flushdb()
    large = foreign("large").replace("W10=", "A" * 2_000_000)
    redis_client.lpush("one", *[large] * 3)
    redis_client.lpush("two", foreign("small"))
    _, *found = Scripts(redis_client).run("oldest_jobs", (), [8, "one", "two"])
    assert found == [0, b"large"]
