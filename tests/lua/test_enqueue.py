"""enqueue.lua: jobs are taken in, alone or with others that have their input."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from common.jobs.enqueue import enqueue_args
from common.jobs.job import Job
from common.jobs.quota import Limits
from common.redis.scripts import Scripts
from tests.lua.cases import (
    COUNTS,
    DIGEST,
    FLIGHT,
    FOLLOWERS,
    IN_FLIGHT,
    KEYS,
    LANE,
    NOW_MS,
    PLACED,
    Case,
    Like,
    Says,
    Within,
    Z,
    check,
    fill,
    follower_record,
    job,
    leased,
    led,
    message,
    result,
    says,
    ticket,
)

FRESH = Like(rf"q {LANE} \d{{13}}")
ONE, TWO = (f"1 0 {LANE}:{DIGEST}", f"2 0 {LANE}:{DIGEST}")
LIMITS = Limits(jobs_per_second=1, burst=2, max_in_flight=3)


def case(
    says: str, jobs: list[Job], returns: list[Any], max_backlog: int = 10, **more: Any
) -> Case:
    """An enqueue of these, with a tenant window of two."""
    return Case(says, enqueue_args(jobs, max_backlog, 2), returns, keys=(), **more)


def shared(job_id: str, priority: int = 0, **fields: Any) -> Job:
    """A job that may share its run."""
    return job(job_id, priority=priority, cache=ticket(**fields))


CASES = [
    case(
        "the first waits behind nobody, the second behind it",
        [job("a"), job("b")],
        [0, 1],
        then={LANE: [message("b"), message("a")], "lf:job:a": FRESH, "lf:job:b": FRESH},
        moves="none->q",
    ),
    case(
        "a deadline stands in the record; a large input lies beside; a band has its own list",
        [job("a", deadline_ms=4_000_000_000_000, blob=b"large", priority=6)],
        [0],
        then={
            KEYS.bands[2]: [Like(".*deadline_ms.*")],
            "lf:job:a": Like(rf"q {LANE} \d{{13}} 4000000000000"),
            "lf:blob:a": "large",
        },
        moves="none->q",
    ),
    case(
        "what was sent before is known, alive or settled",
        [job("a"), job("b"), job("c")],
        [1, 1, 1],
        given={LANE: [message("a")], "lf:job:a": f"q {LANE} 1", "celery-task-meta-b": "{}"},
        then={LANE: [message("c"), message("a")], "lf:job:c": FRESH},
        moves="none->q",
    ),
    case(
        "a full lane takes none, however its jobs lie",
        [job("z")],
        [-1],
        max_backlog=9,
        given={
            **{band: ["x"] for band in KEYS.bands},
            KEYS.unacked: {"t1:1": "x"},
            KEYS.delayed: Z({"x": 1}),
            KEYS.followers: Z({"x": 1}),
            KEYS.over: {"1:acme": "2", "1:": "2"},
        },
    ),
    case(
        "a tenant's jobs beyond its window wait beside the band",
        [job(one, "acme") for one in "abc"],
        [0, 1, 2, -1, 0],
        then={
            LANE: [message("b", "acme"), message("a", "acme")],
            f"lf:lane:{LANE}:over:1:acme": [message("c", "acme")],
            KEYS.over: {"1:acme": "1", "1:": "1"},
            PLACED: {"acme": "2"},
            COUNTS: {"acme": "3"},
            IN_FLIGHT: {"acme": "3"},
            **{f"lf:job:{one}": Like(rf"q {LANE} \d{{13}}:acme") for one in "abc"},
        },
        moves="none->q",
    ),
    case(
        "a tenant that comes where others are is served soon",
        [job("a", "acme")],
        [0, -1, 0],
        given={COUNTS: {"beta": "1"}},
        then={
            LANE: [message("a", "acme")],
            PLACED: {"acme": "1"},
            COUNTS: {"acme": "1", "beta": "1"},
            IN_FLIGHT: {"acme": "1"},
            "lf:job:a": Like(rf"q {LANE} \d{{13}}:acme"),
        },
        moves="none->q",
        published=["lf:hurry"],
    ),
    case(
        "a tenant that sends too fast is refused what is over its burst",
        [job(one, "acme", limits=LIMITS) for one in "abc"],
        [0, 1, -2, 0, Within(1900, 2000)],
        then={
            LANE: [message("b", "acme"), message("a", "acme")],
            PLACED: {"acme": "2"},
            COUNTS: {"acme": "2"},
            IN_FLIGHT: {"acme": "2"},
            "lf:rate:acme": Like(r"\d{13}\.\d{3}"),
            **{f"lf:job:{one}": Like(rf"q {LANE} \d{{13}}:acme") for one in "ab"},
        },
        moves="none->q",
    ),
    case(
        "a tenant with as many in flight as it may have is refused",
        [job("a", "acme", limits=LIMITS)],
        [-3, 2, 0],
        given={IN_FLIGHT: {"acme": "3"}},
    ),
    case(
        "the first of its input leads",
        [shared("a")],
        [0],
        then={LANE: [Like(".*")], "lf:job:a": FRESH, FLIGHT: "1 0 a"},
        moves="none->q",
    ),
    case(
        "the next follows, also in the same call, with its message at its leader's",
        [shared("a"), shared("b")],
        [0, 1],
        then={
            LANE: [Like('.*"id":"a".*')],
            "lf:job:a": FRESH,
            "lf:job:b": Like(rf"w {LANE} \d{{13}} 0 0 0 a"),
            FLIGHT: "1 0 a",
            f"{FOLLOWERS}a": {"": ONE, "b": Like('1 0 {.*"id":"b".*')},
            KEYS.followers: Z({"b": float("inf")}),
        },
        moves="none->q, none->w",
    ),
    case(
        "a more urgent one overtakes a leader that still waits",
        [shared("b")],
        [1],
        given={KEYS.bands[1]: ["x"], "lf:job:a": f"q {LANE} 1", FLIGHT: "2 0 a"},
        then={
            LANE: [Like('.*"id":"b".*')],
            "lf:job:b": FRESH,
            "lf:job:a": follower_record("b"),
            FLIGHT: "1 0 b",
            f"{FOLLOWERS}b": {"": ONE, "a": "2 0 "},
            KEYS.followers: Z({"a": float("inf")}),
        },
        moves="none->q, q->w",
        published=["lf:hurry"],
    ),
    case(
        "one of the first band is told of where lower ones wait",
        [job("a")],
        [1],
        given={KEYS.bands[2]: ["x"]},
        then={LANE: [message("a")], "lf:job:a": FRESH},
        moves="none->q",
        published=["lf:hurry"],
    ),
    case(
        "one of a lower band is not",
        [job("a", priority=3)],
        [1],
        given={KEYS.bands[2]: ["x"]},
        then={KEYS.bands[1]: [Like('.*"id":"a".*')], "lf:job:a": FRESH},
        moves="none->q",
    ),
    case(
        "a running leader is not overtaken",
        [shared("b")],
        [1],
        given={**leased("a", "t1:2"), FLIGHT: "2 0 a"},
        then={
            "lf:job:b": Like(rf"w {LANE} \d{{13}} 0 0 0 a"),
            f"{FOLLOWERS}a": {"": TWO, "b": Like("1 0 {.*")},
            KEYS.followers: Z({"b": float("inf")}),
        },
        moves="none->w",
    ),
    case(
        "the same input succeeded a moment ago",
        [shared("b")],
        [0],
        given={FLIGHT: "!a", "celery-task-meta-a": result("a")},
        then={"celery-task-meta-b": Says("SUCCESS", shared=True, created_ms=NOW_MS)},
        moves="none->settled",
        published=["celery-task-meta-b"],
    ),
    case(
        "but that result is older than this one wants",
        [shared("b", max_age_seconds=0)],
        [0],
        given={FLIGHT: "!a", "celery-task-meta-a": result("a")},
        then={LANE: [Like(".*")], "lf:job:b": FRESH, FLIGHT: "1 0 b"},
        moves="none->q",
    ),
    case(
        "a stranger ran the leader, so its first follower leads and the newcomer follows that",
        [shared("d")],
        [2],
        given={**led("a", "b", "c"), "lf:job:a": f"q {LANE} 1", "celery-task-meta-a": "{}"},
        then={
            LANE: [message("b")],
            "lf:job:b": Like(rf"q {LANE} 1 .*"),
            "lf:job:c": follower_record("b"),
            "lf:job:d": Like(rf"w {LANE} \d{{13}} 0 0 0 b"),
            FLIGHT: "1 0 b",
            f"{FOLLOWERS}a": None,
            f"{FOLLOWERS}b": {"": ONE, "c": f"1 0 {message('c')}", "d": Like("1 0 {.*")},
            KEYS.followers: Z({"c": float("inf"), "d": float("inf")}),
        },
        moves="w->q, w->w, none->w",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_enqueue(redis_client: Redis, case: Case) -> None:
    check(redis_client, "enqueue", case)


def test_what_was_taken_in_is_listed_by_number(redis_client: Redis) -> None:
    fill(redis_client, {})
    jobs = [job("a"), job("b", "acme"), job("c")]
    Scripts(redis_client).run("enqueue", (), enqueue_args(jobs, 10, 2))
    ((number, fields),) = redis_client.xrange("lf:jobs:")  # type: ignore[misc]
    assert number == b"2-0"
    assert fields[LANE.encode()].split(b" ")[1:] == [b"a", b"c"]
    assert redis_client.get("lf:jobs:acme:count") == b"1"
