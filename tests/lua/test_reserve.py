"""reserve.lua: waiting jobs are leased; others are set aside."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from redis import Redis

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
    TTL,
    Case,
    Like,
    Says,
    Within,
    Z,
    check,
    follower_record,
    leased,
    led,
    message,
    promoted_record,
    result,
    says,
    stored,
    together,
)

SCORE = Within(1_700_000_000, 4_000_000_000)
STAMP = r"\d{13}"


LARGEST = 1_000


def call(
    wanted: int = 8,
    low_share: int = 0,
    turn: int = 0,
    max_deliveries: int = 20,
    most_bytes: int = 1_000_000,
) -> list[object]:
    """The words of one call."""
    words = [LANE, wanted, 30_000, "n.", "w", TTL, 10, max_deliveries, low_share, turn, 2]
    return [*words, most_bytes, LARGEST]


def taken(*jobs: tuple[str, str], tenant: str = "", start: int = 1) -> dict[str, object]:
    """The keys of these jobs' leases, with the number of the band of each."""
    tags = [f"n.{number:06}:{band}" for number, (_, band) in enumerate(jobs, start)]
    origin = f"1:{tenant}" if tenant else "1"
    return {
        KEYS.unacked: {tag: stored(one, tenant) for tag, (one, _) in zip(tags, jobs, strict=True)},
        KEYS.index: Z(dict.fromkeys(tags, SCORE)),
        **{
            f"lf:job:{one}": Like(f"r {LANE} {origin} 0 0 0 {tag} {STAMP} w ")
            for tag, (one, _) in zip(tags, jobs, strict=True)
        },
    }


def answer(*jobs: tuple[str, str], left: int = 0, tenant: str = "", start: int = 1) -> list[object]:
    """What the call returns for these."""
    out: list[object] = [left, NOW_MS]
    for number, (one, band) in enumerate(jobs, start):
        out += [f"n.{number:06}:{band}", 1, f"1:{tenant}" if tenant else "1"]
        out.append(message(one, tenant))
    return out


def queued(*ids: str, tenant: str = "") -> dict[str, object]:
    """The records of these waiting jobs."""
    return {f"lf:job:{one}": f"q {LANE} 1:{tenant}" if tenant else f"q {LANE} 1" for one in ids}


EXPIRED = Says("REVOKED", state="expired")
META = "celery-task-meta-a"
SAID = "lf:said:a"
LARGE = json.dumps(
    {
        "body": "x" * 5_000,
        "headers": {"id": "a", "task": "infer"},
        "properties": {"correlation_id": "a"},
    }
)
"""As kombu writes it."""
LARGE_OWN = message("a", "acme").replace("text", "x" * LARGEST)


def too_large(sent: str) -> dict[str, object]:
    """The keys of a message that was parked for its size."""
    letter = Like(r'{.*"reason":"message_too_large".*}\n' + re.escape(sent[:4096]))
    return {
        KEYS.dead: Z({"unreadable-n.000001:1": NOW_MS}),
        KEYS.letters: {"unreadable-n.000001:1": letter},
        KEYS.stats: {"dead": "1"},
        META: Says("FAILURE", state="failed", reason="message_too_large"),
    }


CASES = [
    Case("nothing waits", call(), [0, NOW_MS]),
    Case(
        "the oldest first, as many as are wanted",
        call(2),
        answer(("a", "1"), ("b", "1"), left=1),
        given={LANE: [message("c"), message("b"), message("a")], **queued("a", "b", "c")},
        then={LANE: [message("c")], **taken(("a", "1"), ("b", "1"))},
        moves="q->r",
    ),
    Case(
        "lower bands get their share, in turn",
        call(2, low_share=1, turn=1),
        answer(("a", "1"), ("d", "3"), left=2),
        given={
            LANE: [message("b"), message("a")],
            KEYS.bands[1]: [message("c")],
            KEYS.bands[2]: [message("d")],
            **queued("a", "b", "c", "d"),
        },
        then={LANE: [message("b")], KEYS.bands[2]: None, **taken(("a", "1"), ("d", "3"))},
        moves="q->r",
    ),
    Case(
        "a delayed job that is due comes first",
        call(1),
        answer(("b", "1"), left=1),
        given={
            LANE: [message("a")],
            KEYS.delayed: Z({f"1:{message('b')}": 1}),
            **queued("a", "b"),
        },
        then={KEYS.delayed: None, **taken(("b", "1"))},
        moves="q->r",
    ),
    Case(
        "one whose result is known is dropped",
        call(),
        [0, NOW_MS],
        given={LANE: [message("a")], META: result("a")},
        then={LANE: None},
    ),
    Case(
        "a stranger's message gets a record",
        call(),
        [0, NOW_MS, "n.000001:1", 1, "0", message("a")],
        given={LANE: [message("a")]},
        then={
            LANE: None,
            KEYS.unacked: {"n.000001:1": stored("a")},
            KEYS.index: Z({"n.000001:1": SCORE}),
            "lf:job:a": Like(f"r {LANE} 0 0 0 0 n.000001:1 {STAMP} w "),
        },
        moves="none->r",
    ),
    Case(
        "bytes that are no message are parked as they are",
        call(),
        [0, NOW_MS],
        given={LANE: ["{}"]},
        then={
            LANE: None,
            KEYS.dead: Z({"unreadable-n.000001:1": NOW_MS}),
            KEYS.letters: {"unreadable-n.000001:1": Like('{.*"reason":"unreadable".*}\n{}')},
            KEYS.stats: {"dead": "1"},
        },
    ),
    Case(
        "a message sent twice is leased once",
        call(),
        answer(("a", "1")),
        given={LANE: [message("a"), message("a")], **queued("a")},
        then={LANE: None, **taken(("a", "1"))},
        moves="q->r",
    ),
    Case(
        "a duplicate of a live lease is dropped",
        call(),
        [0, NOW_MS],
        given={LANE: [message("a")], **leased("a", "t1:1")},
        then={LANE: None},
    ),
    Case(
        "one whose lease is gone has been tried",
        call(),
        [0, NOW_MS, "n.000001:1", 2, "1", message("a")],
        given={LANE: [message("a")], "lf:job:a": f"r {LANE} 1 0 0 0 t1:1 2 w "},
        then={
            LANE: None,
            KEYS.unacked: {"n.000001:1": stored("a")},
            KEYS.index: Z({"n.000001:1": SCORE}),
            "lf:job:a": Like(f"r {LANE} 1 0 1 1 n.000001:1 {STAMP} w "),
        },
        moves="r->r",
    ),
    Case(
        "a canceled one is met for the last time",
        call(),
        [0, NOW_MS],
        given={LANE: [message("a")], "lf:job:a": f"x {LANE} 1"},
        then={LANE: None},
        moves="x->settled",
    ),
    Case(
        "a canceled tenant's counts until its message is dropped, and once",
        call(),
        [0, NOW_MS],
        given={
            LANE: [message("a", "acme"), message("a", "acme")],
            PLACED: {"acme": "2"},
            "lf:job:a": f"x {LANE} 1:acme",
            COUNTS: {"acme": "2"},
            IN_FLIGHT: {"acme": "2"},
        },
        then={
            LANE: None,
            PLACED: None,
            "lf:job:a": f"x {LANE} 1",
            COUNTS: {"acme": "1"},
            IN_FLIGHT: {"acme": "1"},
        },
        moves="x->settled",
    ),
    Case(
        "what is too large is parked, its beginning only, and its sender told",
        call(1),
        [1, NOW_MS],
        given={LANE: [message("b"), LARGE], **queued("b")},
        then={LANE: [message("b")], **too_large(LARGE)},
        moves="none->settled",
        published=[META],
    ),
    Case(
        "a tenant's that is too large is counted out",
        call(),
        [0, NOW_MS],
        given={
            LANE: [LARGE_OWN],
            "lf:job:a": f"q {LANE} 1:acme",
            PLACED: {"acme": "1"},
            COUNTS: {"acme": "1"},
            IN_FLIGHT: {"acme": "1"},
        },
        then={
            LANE: None,
            "lf:job:a": None,
            PLACED: None,
            COUNTS: None,
            IN_FLIGHT: None,
            **too_large(LARGE_OWN),
        },
        moves="q->settled",
        published=[META],
    ),
    Case(
        "no more once enough bytes are taken",
        call(most_bytes=1),
        answer(("a", "1"), left=1),
        given={LANE: [message("b"), message("a")], **queued("a", "b")},
        then={LANE: [message("b")], **taken(("a", "1"))},
        moves="q->r",
    ),
    Case(
        "a deadline passed while it waited; who followed it does not wait for that",
        call(),
        [1, NOW_MS],
        given=together(
            {LANE: [message("a")], "lf:job:a": f"q {LANE} 1:acme 5"},
            {COUNTS: {"acme": "1"}, IN_FLIGHT: {"acme": "1"}, PLACED: {"acme": "1"}},
            led("a", "b", "c"),
        ),
        then={
            LANE: [message("b")],
            "lf:job:a": None,
            META: EXPIRED,
            COUNTS: None,
            IN_FLIGHT: None,
            PLACED: None,
            KEYS.stats: {"expired": "1"},
            FLIGHT: "1 0 b",
            "lf:job:b": promoted_record(),
            "lf:job:c": follower_record("b"),
            f"{FOLLOWERS}a": None,
            f"{FOLLOWERS}b": {"": f"1 0 {LANE}:{DIGEST}", "c": f"1 0 {message('c')}"},
            KEYS.followers: Z({"c": float("inf")}),
        },
        moves="q->settled, w->q, w->w",
        published=[META],
    ),
    Case(
        "one that was delivered too often is dead",
        call(max_deliveries=2),
        [0, NOW_MS],
        given={LANE: [message("a")], "lf:job:a": f"q {LANE} 1 0 1 2 - 0 - "},
        then={
            LANE: None,
            "lf:job:a": None,
            META: Says("FAILURE", reason="attempts_exhausted", attempts=1),
            KEYS.dead: Z({"a": NOW_MS}),
            KEYS.letters: {"a": Says(reason="attempts_exhausted", attempts=1)},
            KEYS.stats: {"dead": "1"},
        },
        moves="q->settled",
        published=[META],
    ),
    Case(
        "the message of one that was overtaken goes to its leader",
        call(),
        [0, NOW_MS],
        given={LANE: [message("b")], **led("a", "b", waits="b")},
        then={LANE: None, FOLLOWERS + "a": led("a", "b")[FOLLOWERS + "a"]},
    ),
    Case(
        "one that follows nobody is leased",
        call(),
        [0, NOW_MS, "n.000001:1", 1, "0", message("b")],
        given={LANE: [message("b")], "lf:job:b": follower_record("a")},
        then={
            LANE: None,
            KEYS.unacked: {"n.000001:1": stored("b")},
            KEYS.index: Z({"n.000001:1": SCORE}),
            "lf:job:b": Like(f"r {LANE} 0 0 0 0 n.000001:1 {STAMP} w "),
        },
        moves="w->r",
    ),
    Case(
        "a tenant's next ones move up into its window",
        call(1),
        answer(("a", "1"), left=2, tenant="acme"),
        given={
            LANE: [message("b", "acme"), message("a", "acme")],
            PLACED: {"acme": "2"},
            KEYS.over: {"1:acme": "1", "1:": "1"},
            f"{KEYS.over}:1:acme": [message("c", "acme")],
            **queued("a", "b", "c", tenant="acme"),
        },
        then={
            LANE: [message("c", "acme"), message("b", "acme")],
            KEYS.over: None,
            f"{KEYS.over}:1:acme": None,
            **taken(("a", "1"), tenant="acme"),
        },
        moves="q->r",
    ),
    Case(
        "where a list is used up, those beside it are served at once",
        call(2),
        answer(("a", "1"), ("b", "1"), left=1, tenant="acme"),
        given={
            KEYS.over: {"1:acme": "3", "1:": "3"},
            f"{KEYS.over}:1:acme": [message(one, "acme") for one in "cba"],
            **queued("a", "b", "c", tenant="acme"),
        },
        then={
            LANE: [message("c", "acme")],
            PLACED: {"acme": "1"},
            KEYS.over: None,
            f"{KEYS.over}:1:acme": None,
            **taken(("a", "1"), ("b", "1"), tenant="acme"),
        },
        moves="q->r",
    ),
]


def foreign(job_id: str, value: str) -> str:
    """A message of a stock client, with an id of its choice."""
    call = json.dumps([[], {"model": LANE, "input": value}, {}])
    known = {"headers": {"id": job_id, "task": "infer"}, "properties": {}, "body": call}
    return json.dumps(known)


def digest(text: str) -> str:
    return hashlib.sha1(json.loads(text)["body"].encode(), usedforsecurity=False).hexdigest()


def kept(text: str) -> str:
    """The result that a worker left of this message."""
    return f'{{"status":"SUCCESS","lanefleet":{{"state":"succeeded","call":"{digest(text)}"}}}}'


ONE, OTHER = foreign("a", "one"), foreign("a", "other")
TOLD = Says("FAILURE", reason="unreadable")
OLD = json.dumps({"body": {"id": "a", "task": "infer"}, "properties": {"correlation_id": "a"}})


def leased_now(text: str) -> dict[str, object]:
    tag = "n.000001:1"
    return {
        "lf:job:a": Like(f"r {LANE} 0 0 0 0 {tag} {STAMP} w "),
        KEYS.unacked: {tag: f'[{text},"","{LANE}"]'},
        KEYS.index: Z({tag: SCORE}),
    }


def refused(text: str, job_id: str) -> dict[str, object]:
    letter = "unreadable-n.000001:1"
    return {
        LANE: None,
        f"celery-task-meta-{job_id}": TOLD,
        KEYS.dead: Z({letter: NOW_MS}),
        KEYS.letters: {letter: Like(r'{.*"reason":"unreadable".*}\n.*')},
        KEYS.stats: {"dead": "1"},
    }


ONE_LEASED = {**leased("a", "t1:1"), KEYS.unacked: {"t1:1": f'[{ONE},"","{LANE}"]'}}

FOREIGN = [
    Case(
        "a copy of a settled call is dropped",
        call(),
        [0, NOW_MS],
        given={LANE: [ONE], META: kept(ONE)},
        then={LANE: None},
    ),
    Case(
        "another call under an old id runs",
        call(),
        [0, NOW_MS, "n.000001:1", 1, "0", OTHER],
        given={LANE: [OTHER], META: kept(ONE), SAID: [{"d": "of the old call"}]},
        then={LANE: None, META: None, SAID: None, **leased_now(OTHER)},
        moves="settled->r",
    ),
    Case(
        "what its client aborted is canceled",
        call(),
        [0, NOW_MS],
        given={LANE: [ONE], META: '{"status": "ABORTED", "result": null}'},
        then={LANE: None, META: Says("REVOKED", state="canceled"), KEYS.stats: {"canceled": "1"}},
        published=[META],
    ),
    Case(
        "what another worker began and lost runs",
        call(),
        [0, NOW_MS, "n.000001:1", 1, "0", ONE],
        given={LANE: [ONE], META: '{"status": "STARTED", "result": {}}'},
        then={LANE: None, **leased_now(ONE)},
        moves="settled->r",
    ),
    Case(
        "a copy of a leased call is dropped",
        call(),
        [0, NOW_MS],
        given={LANE: [ONE], **ONE_LEASED},
        then={LANE: None},
    ),
    Case(
        "another call waits for the one that has its id",
        call(),
        [0, NOW_MS],
        given={
            LANE: [OTHER],
            **leased("a", "t1:1"),
            KEYS.unacked: {"t1:1": f'[{ONE},"","{LANE}"]'},
        },
        then={LANE: None, KEYS.delayed: Z({f"1:{OTHER}": NOW_MS})},
    ),
    Case(
        "two calls with one id that came together",
        call(),
        [0, NOW_MS, "n.000001:1", 1, "0", ONE],
        given={LANE: [OTHER, ONE, ONE]},
        then={LANE: None, KEYS.delayed: Z({f"1:{OTHER}": NOW_MS}), **leased_now(ONE)},
        moves="none->r",
    ),
    *(
        Case(
            f"an id with {name} is refused where its sender waits",
            call(),
            [0, NOW_MS],
            given={LANE: [foreign(job_id, "one")]},
            then=refused(foreign(job_id, "one"), job_id),
            moves="none->settled",
            published=[f"celery-task-meta-{job_id}"],
        )
        for name, job_id in {"a quote": 'a"b', "a backslash": "a\\b", "a newline": "a\nb"}.items()
    ),
    Case(
        "what names a job that is known ends nobody's wait",
        call(),
        [0, NOW_MS],
        given={LANE: [OLD], META: result("a")},
        then={key: one for key, one in refused(OLD, "a").items() if key != META},
    ),
    Case(
        "protocol 1 is refused where its sender waits",
        call(),
        [0, NOW_MS],
        given={LANE: [OLD]},
        then=refused(OLD, "a"),
        moves="none->settled",
        published=[META],
    ),
]


CASES += FOREIGN


@pytest.mark.parametrize("case", CASES, ids=says)
def test_reserve(redis_client: Redis, case: Case) -> None:
    check(redis_client, "reserve", case)
