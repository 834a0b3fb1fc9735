"""queue_position.lua: how many are served before a waiting job."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import KEYS, LANE, Case, check, follower_record, leased, message, says


def waiting(*ids: str) -> dict[str, str]:
    """Records of jobs that were accepted in this order."""
    return {f"lf:job:{one}": f"q {LANE} {100 + at}" for at, one in enumerate(ids)}


BANDS = {
    LANE: [message("b"), message("a")],
    KEYS.bands[1]: [message("d"), message("c")],
    **waiting("a", "b", "c", "d"),
}
BIG = [f"job-{number:04}" for number in range(60)]
MANY = [f"job-{number:04}" for number in range(600)]

CASES = [
    Case("nobody knows it", ["z"], [-1], keys=()),
    Case("it runs", ["a"], [-1], given=leased("a", "t1:1"), keys=()),
    Case("those of its band, and of the bands before it", list("abcd"), [0, 1, 2, 3], given=BANDS),
    Case(
        "a follower is served with its leader",
        ["f"],
        [1],
        given={**BANDS, "lf:job:f": follower_record("b")},
    ),
    Case(
        "a deep lane is searched from both ends",
        [MANY[0], MANY[300], MANY[-1]],
        [0, 300, 599],
        given={LANE: [message(one) for one in reversed(MANY)], **waiting(*MANY)},
    ),
    Case(
        "a tenant's: from beside the band others move up in turns",
        ["a", "b"],
        [0, 1],
        given={
            LANE: [message("a", "acme")],
            KEYS.over: {"1:acme": "1", "1:beta": "5", "1:": "6"},
            f"{KEYS.over}:1:acme": [message("b", "acme")],
            "lf:job:a": f"q {LANE} 1:acme",
            "lf:job:b": f"q {LANE} 2:acme",
        },
    ),
    Case(
        "a tenant's among large messages: about, where not all can be looked at",
        [BIG[0], BIG[-1]],
        [0, 51],
        given={
            LANE: [message(one, one).replace("text", "x" * 50_000) for one in reversed(BIG)],
            **{f"lf:job:{one}": f"q {LANE} {at}:{one}" for at, one in enumerate(BIG)},
        },
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_queue_position(redis_client: Redis, case: Case) -> None:
    check(redis_client, "queue_position", case)
