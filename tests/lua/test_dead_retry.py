"""dead_retry.lua: dead jobs wait again, with nothing counted."""

from __future__ import annotations

import pytest
from redis import Redis

from common.jobs.message import build_message
from tests.lua.cases import (
    COUNTS,
    IN_FLIGHT,
    KEYS,
    LANE,
    PLACED,
    Case,
    Like,
    Z,
    check,
    job,
    message,
    says,
)

META = "celery-task-meta-a"
LIMITS = ["acme", 0, 1, 2]
ACME = [8, *LIMITS, "a"]


def letter(tenant: str = "", band: int = 1) -> str:
    owner = f',"tenant":"{tenant}"' if tenant else ""
    return f'{{"lane":"{LANE}","band":{band}{owner}}}\n{message("a", tenant)}'


LABELED = (
    f'{{"lane":"{LANE}","band":1}}\n'
    + build_message(job("a", labels={"run": "1", "by": "me"})).decode()
)
CASES = [
    Case("it is not on the list", ACME, [1, 0, 0]),
    Case(
        "one that nobody can read stays",
        [8, *LIMITS, "unreadable-1"],
        [1, 0, 0],
        given={KEYS.dead: Z({"unreadable-1": 1}), KEYS.letters: {"unreadable-1": "{}\n{}"}},
    ),
    Case(
        "one that is alive again stays",
        ACME,
        [1, 0, 0],
        given={KEYS.dead: Z({"a": 1}), KEYS.letters: {"a": letter()}, "lf:job:a": f"q {LANE} 1"},
    ),
    Case(
        "with its labels, which the index has under another time",
        ACME,
        [1, 1, 0],
        given={KEYS.dead: Z({"a": 1}), KEYS.letters: {"a": LABELED}},
        then={
            LANE: [LABELED.split("\n")[1]],
            KEYS.dead: None,
            KEYS.letters: None,
            "lf:labels:a": "by=me,run=1",
            "lf:job:a": Like(rf"q {LANE} \d{{13}}"),
        },
        moves="none->q",
    ),
    Case(
        "behind the others of its band",
        ACME,
        [1, 1, 0],
        given={
            KEYS.bands[2]: [message("b")],
            KEYS.dead: Z({"a": 1}),
            KEYS.letters: {"a": letter(band=3)},
            META: "{}",
        },
        then={
            KEYS.bands[2]: [message("a"), message("b")],
            KEYS.dead: None,
            KEYS.letters: None,
            META: None,
            "lf:job:a": Like(rf"q {LANE} \d{{13}}"),
        },
        moves="settled->q",
    ),
    Case(
        "a tenant's is counted again; its result may be gone",
        ACME,
        [1, 1, 0],
        given={KEYS.dead: Z({"a": 1}), KEYS.letters: {"a": letter("acme")}},
        then={
            LANE: [message("a", "acme")],
            KEYS.dead: None,
            KEYS.letters: None,
            "lf:job:a": Like(rf"q {LANE} \d{{13}}:acme"),
            PLACED: {"acme": "1"},
            COUNTS: {"acme": "1"},
            IN_FLIGHT: {"acme": "1"},
        },
        moves="none->q",
    ),
    Case(
        "a tenant has as many in flight as it may; others than its own are not asked",
        [8, *LIMITS, "b", "a"],
        [1, 1, -3],
        given={
            KEYS.dead: Z({"a": 1, "b": 1}),
            KEYS.letters: {"a": letter("acme"), "b": letter("beta").replace('"a"', '"b"')},
            IN_FLIGHT: {"acme": "2"},
        },
        then={
            LANE: [Like(".*beta.*")],
            KEYS.dead: Z({"a": 1}),
            KEYS.letters: {"a": letter("acme")},
            "lf:job:b": Like(rf"q {LANE} \d{{13}}:beta"),
            PLACED: {"beta": "1"},
            COUNTS: {"beta": "1"},
            IN_FLIGHT: {"acme": "2", "beta": "1"},
        },
        moves="none->q",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_dead_retry(redis_client: Redis, case: Case) -> None:
    check(redis_client, "dead_retry", case)
