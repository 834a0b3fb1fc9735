"""expire.lua: what no worker meets ends at its deadline, and is delayed until its ETA."""

from __future__ import annotations

import pytest
from redis import Redis

from common.redis.scripts import Scripts
from tests.lua.cases import (
    COUNTS,
    DIGEST,
    FLIGHT,
    FOLLOWERS,
    IN_FLIGHT,
    KEYS,
    LANE,
    PLACED,
    TTL,
    Case,
    Like,
    Says,
    Z,
    check,
    cpu_seconds,
    fill,
    led,
    message,
    promoted_record,
    says,
)

EXPIRED = Says("REVOKED", state="expired", reason="deadline")
OVER = f"lf:lane:{LANE}:over"
ONE = {KEYS.stats: {"expired": "1"}}
LATE = f"q {LANE} 1 5"
ETA = "2096-10-02T09:06:40+02:00"
ETA_MS = 4_000_000_000_000


def meta(job_id: str) -> str:
    return f"celery-task-meta-{job_id}"


def call(first: int = 0, limit: int = 10, band: int = 1, tenant: str = "") -> list[object]:
    """The words of one call."""
    return [LANE, TTL, band, tenant, first, limit]


def foreign(job_id: str, **times: str) -> str:
    """A message as Kombu writes it."""
    headers = "".join(f', "{name}": "{value}"' for name, value in times.items())
    said = f'"headers": {{"lang": "py", "task": "infer", "id": "{job_id}"{headers}}}'
    return f'{{"body": "W10=", {said}, "properties": {{}}}}'


CASES = [
    Case("an empty lane has nothing", call(), [-1, 0, 0]),
    Case(
        "one that is late ends, its message goes, and the others stay",
        call(),
        [-1, 1, 0],
        given={
            LANE: [message("c"), message("b"), message("a")],
            "lf:job:a": f"q {LANE} 1 {ETA_MS}",
            "lf:job:b": LATE,
            "lf:job:c": f"q {LANE} 1",
        },
        then={LANE: [message("c"), message("a")], "lf:job:b": None, meta("b"): EXPIRED, **ONE},
        moves="q->settled",
        published=[meta("b")],
    ),
    Case(
        "no more is looked at than asked for, from where it is asked",
        call(1, 1),
        [1, 1, 0],
        given={
            LANE: [message("c"), message("b"), message("a")],
            **{f"lf:job:{one}": LATE for one in "abc"},
        },
        then={LANE: [message("c"), message("a")], "lf:job:b": None, meta("b"): EXPIRED, **ONE},
        moves="q->settled",
        published=[meta("b")],
    ),
    Case(
        "what waits beside a band ends too",
        call(tenant="acme"),
        [-1, 1, 0],
        given={
            OVER: {"1:acme": "2", "1:": "2"},
            f"{OVER}:1:acme": [message("b", "acme"), message("a", "acme")],
            "lf:job:a": f"q {LANE} 1:acme 5",
            "lf:job:b": f"q {LANE} 1:acme",
            COUNTS: {"acme": "2"},
            IN_FLIGHT: {"acme": "2"},
        },
        then={
            OVER: {"1:acme": "1", "1:": "1"},
            f"{OVER}:1:acme": [message("b", "acme")],
            "lf:job:a": None,
            meta("a"): EXPIRED,
            COUNTS: {"acme": "1"},
            IN_FLIGHT: {"acme": "1"},
            **ONE,
        },
        moves="q->settled",
        published=[meta("a")],
    ),
    Case(
        "a tenant's window has room again",
        call(),
        [-1, 1, 0],
        given={
            LANE: [message("a", "acme")],
            PLACED: {"acme": "1"},
            "lf:job:a": f"q {LANE} 1:acme 5",
            COUNTS: {"acme": "1"},
            IN_FLIGHT: {"acme": "1"},
        },
        then={
            LANE: None, PLACED: None, "lf:job:a": None, meta("a"): EXPIRED,
            COUNTS: None, IN_FLIGHT: None, **ONE,
        },
        moves="q->settled",
        published=[meta("a")],
    ),
    Case(
        "the message of one that was canceled goes",
        call(),
        [-1, 0, 0],
        given={
            LANE: [message("a")],
            "lf:job:a": f"x {LANE} 1:acme",
            meta("a"): "{}",
            COUNTS: {"acme": "1"},
            IN_FLIGHT: {"acme": "1"},
        },
        then={LANE: None, "lf:job:a": None, COUNTS: None, IN_FLIGHT: None},
        moves="x->settled",
    ),
    Case(
        "what another client sent is delayed until its ETA, and else left to a worker",
        call(),
        [-1, 0, 1],
        given={
            LANE: [
                foreign("c", expires="2001-01-01T00:00:00+00:00"),
                foreign("b", eta="2001-01-01T00:00:00Z"),
                foreign("a", eta=ETA),
                "{}",
            ]
        },
        then={
            LANE: [
                foreign("c", expires="2001-01-01T00:00:00+00:00"),
                foreign("b", eta="2001-01-01T00:00:00Z"),
                "{}",
            ],
            KEYS.delayed: Z({f"1:{foreign('a', eta=ETA)}": ETA_MS}),
        },
    ),
    Case(
        "jobs that are leased, follow another or have a result are left alone",
        call(),
        [-1, 0, 0],
        given={
            LANE: [message("c"), message("b"), message("a")],
            "lf:job:a": f"r {LANE} 1 5 1 0 t 2 w ",
            "lf:job:b": f"w {LANE} 1 5 0 0 z",
            "lf:job:c": LATE,
            meta("c"): "{}",
        },
    ),
    Case(
        "the next identical one leads in its place",
        call(),
        [0, 1, 0],
        given={LANE: [message("a")], "lf:job:a": LATE, **led("a", "b", "c")},
        then={
            LANE: [message("b")],
            "lf:job:a": None,
            meta("a"): EXPIRED,
            "lf:job:b": promoted_record(),
            "lf:job:c": Like("w .* b"),
            f"{FOLLOWERS}a": None,
            f"{FOLLOWERS}b": {"": f"1 0 {LANE}:{DIGEST}", "c": f"1 0 {message('c')}"},
            KEYS.followers: Z({"c": float("inf")}),
            FLIGHT: "1 0 b",
            **ONE,
        },
        moves="q->settled, w->q, w->w",
        published=[meta("a")],
    ),
    Case(
        "deep in a list only the job ends, and its message is left",
        call(2500, 1),
        [2501, 1, 0],
        given={
            LANE: [*(f"y{n}" for n in range(2500)), message("a"), *(f"z{n}" for n in range(2500))],
            "lf:job:a": LATE,
        },
        then={"lf:job:a": f"x {LANE} 1", meta("a"): EXPIRED, **ONE},
        moves="q->x",
        published=[meta("a")],
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=says)
def test_expire(redis_client: Redis, case: Case) -> None:
    check(redis_client, "expire", case)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00+00:00", 0),
        ("2000-02-29T12:00:00", 951_825_600_000),
        ("2026-12-31T23:59:59.250000Z", 1_798_761_599_250),
        ("2027-01-01T01:29:59.25+01:30", 1_798_761_599_250),
        ("2026-12-31 18:59:59-0500", 1_798_761_599_000),
        ("tomorrow", None),
    ],
)
def test_times_of_clients_are_read(redis_client: Redis, text: str, ms: int | None) -> None:
    from tests.lua.test_text import INCLUDES

    code = INCLUDES["iso_time"].read_text()
    found = redis_client.eval(f"{code}\nreturn tostring(iso_ms(ARGV[1]))", 0, text)
    assert found == (b"nil" if ms is None else b"%d" % ms)


def test_a_look_at_a_deep_lane_holds_the_server_up_for_less_than_50_ms(redis_client: Redis) -> None:
    fill(redis_client, {})
    pipe = redis_client.pipeline(transaction=False)
    for first in range(0, 200_000, 1000):
        pipe.lpush(LANE, *(message(f"{n:09}") for n in range(first, first + 1000)))
    pipe.execute()
    spent = [cpu_of_a_look(redis_client) for _ in range(3)]
    print(f"200 messages in the middle of 200,000: {min(spent) * 1000:.1f} ms of CPU")
    assert min(spent) < 0.05


def cpu_of_a_look(client: Redis) -> float:
    before = cpu_seconds(client)
    Scripts(client).run("expire", KEYS.as_list(), call(100_000, 200))
    return cpu_seconds(client) - before
