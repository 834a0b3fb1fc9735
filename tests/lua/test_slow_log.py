"""No script holds the server up for long, however large what clients sent is.

Judged by the CPU time of the server's own thread, so that a busy machine does not count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import pytest
from redis import Redis

from common.jobs.enqueue import enqueue_args
from common.jobs.job import Job
from common.jobs.quota import Limits
from common.redis.keys import OUTBOX
from common.redis.scripts import Scripts
from tests.lua.cases import DIGEST, FOLLOWERS, KEYS, LANE, TTL, cpu_seconds, message, result, ticket

MOST_SECONDS = 0.05
OWN = 150_000
"""Bytes of a message with the largest input and params that the front takes as they are."""
FOREIGN = 4 * 1024 * 1024
"""The largest message that another Celery client may send."""
NOW = 4_000_000_000


class Long(NamedTuple):
    """One call of a script with much before it."""

    script: str
    fill: Callable[[Redis], list[Any]]
    """Returns the arguments."""
    keys: tuple[str, ...] = tuple(KEYS.as_list())


def large(job_id: str, size: int = OWN, tenant: str = "") -> bytes:
    """A message of this size, built here."""
    return message(job_id, tenant).replace("text", "x" * size).encode()


def foreign(job_id: str, size: int) -> bytes:
    """The same as kombu writes it."""
    headers = {"id": job_id, "task": "infer"}
    return json.dumps(
        {"body": "x" * size, "headers": headers, "properties": {"correlation_id": job_id}}
    ).encode()


def ids(count: int) -> list[str]:
    return [f"job-{at:05}" for at in range(count)]


def queued(client: Redis, names: list[str], tenants: int = 0) -> None:
    """Records of waiting jobs."""
    client.mset(
        {
            f"lf:job:{one}": f"q {LANE} {at}" + (f":t{at % tenants}" if tenants else "")
            for at, one in enumerate(names)
        }
    )


def in_lane(count: int, make: Callable[[str], bytes] = large) -> Callable[[Redis], list[str]]:
    def fill(client: Redis) -> list[str]:
        names = ids(count)
        queued(client, names)
        for one in names:
            client.lpush(LANE, make(one))
        return names

    return fill


def leased(count: int, score: int = 1, size: int = OWN) -> Callable[[Redis], list[str]]:
    def fill(client: Redis) -> list[str]:
        names = ids(count)
        for one in names:
            held = b"[" + large(one, size) + f',"","{LANE}"]'.encode()
            client.hset(KEYS.unacked, f"{one}:1", held)  # type: ignore[arg-type]
            client.zadd(KEYS.index, {f"{one}:1": score})
            client.set(f"lf:job:{one}", f"r {LANE} 1 0 0 0 {one}:1 2 w ")
        return names

    return fill


def tenants(count: int, each: int, size: int) -> Callable[[Redis], list[str]]:
    def fill(client: Redis) -> list[str]:
        names = ids(count * each)
        for first in range(0, len(names), 20):
            jobs = [
                Job(LANE, "x" * size, id=one, tenant=f"t{at % count}", limits=Limits())
                for at, one in enumerate(names[first : first + 20], first)
            ]
            Scripts(client).run("enqueue", (), enqueue_args(jobs, 1_000_000))
        return names

    return fill


def followers(
    client: Redis, leader: str, count: int, size: int, lane: str = LANE, due: float = NOW * 1000
) -> None:
    """Followers of a leased leader, with messages of this size."""
    flight = f"{lane}:{DIGEST}{leader}"
    names = [f"{leader}-{at}" for at in range(count)]
    client.hset(FOLLOWERS + leader, "", f"1 0 {flight}")
    for first in range(0, count, 100):
        part = names[first : first + 100]
        client.hset(FOLLOWERS + leader, mapping={one: b"1 0 " + large(one, size) for one in part})  # type: ignore[dict-item]
        client.mset({f"lf:job:{one}": f"w {lane} 1 0 0 0 {leader}" for one in part})
        client.zadd(KEYS.followers, dict.fromkeys(part, due))
    client.set(f"lf:flight:{flight}", f"1 0 {leader}")


def reserve(wanted: int = 256) -> list[Any]:
    return [LANE, wanted, 30_000, "n.", "w", TTL, 10_000, 30, 16, 0, 8, 2 * 1024 * 1024, FOREIGN]


def sized_result(job_id: str, size: int) -> str:
    return result(job_id).replace('"result":1', '"result":"' + "x" * size + '"')


def finish(names: list[str], meta_bytes: int, words: int = 9) -> list[Any]:
    out: list[Any] = [TTL, words]
    for one in names:
        meta = sized_result(one, meta_bytes)
        out += [f"{one}:1", one, meta, "", f"{LANE}:{DIGEST}{one}", 1000, "", "", "1"][:words]
    return out


def shared(leaders: int, count: int, size: int, meta_bytes: int) -> Callable[[Redis], list[Any]]:
    def fill(client: Redis) -> list[Any]:
        names = leased(leaders, size=10)(client)
        for one in names:
            followers(client, one, count, size)
        return finish(names, meta_bytes)

    return fill


def then(fill: Callable[[Redis], Any], *args: Any) -> Callable[[Redis], list[Any]]:
    def both(client: Redis) -> list[Any]:
        fill(client)
        return list(args)

    return both


def letters(count: int, size: int) -> Callable[[Redis], list[str]]:
    def fill(client: Redis) -> list[str]:
        for one in ids(count):
            about = f'{{"id":"{one}","lane":"{LANE}","band":1}}\n'
            client.hset(KEYS.letters, one, about.encode() + large(one, size))  # type: ignore[arg-type]
            client.zadd(KEYS.dead, {one: 1})
        return ids(count)

    return fill


def outbox(client: Redis) -> list[Any]:
    """Jobs that lead to something, before a long outbox."""
    names = leased(64, size=10)(client)
    with client.pipeline() as pipe:
        for _ in range(5_000):
            pipe.xadd(OUTBOX, {"id": "a", "meta": "{}", "next": "{}"})
        pipe.execute()
    client.mset({f"lf:next:{one}": "x" * 1000 for one in names})
    return finish(names, 60_000)


def delayed(client: Redis) -> list[Any]:
    for one in ids(100):
        client.zadd(KEYS.delayed, {b"1:" + large(one): 1})
    return [LANE, 200, TTL, 8, 10_000, 20_000]


def enqueued(count: int, size: int) -> Callable[[Redis], list[Any]]:
    def fill(_client: Redis) -> list[Any]:
        jobs = [Job(LANE, "x" * size, id=one, tenant="acme", cache=ticket()) for one in ids(count)]
        return enqueue_args(jobs, 1_000_000)

    return fill


TRIPLE = lambda names, *rest: list(chain.from_iterable((f"{one}:1", one, *rest) for one in names))  # noqa: E731
REAP = [LANE, 200, TTL, 8, 10_000, 20_000]

CALLS = {
    "reserve: own": Long("reserve", then(in_lane(100), *reserve())),
    "reserve: small, then large ones": Long(
        "reserve",
        then(
            in_lane(64, lambda one: large(one, 2_000_000 if one > "job-00015" else 10)), *reserve()
        ),
    ),
    "reserve: as large as may be": Long(
        "reserve", then(in_lane(9, lambda one: foreign(one, FOREIGN - 200)), *reserve())
    ),
    "reserve: too large": Long(
        "reserve", then(in_lane(9, lambda one: foreign(one, FOREIGN * 2)), *reserve())
    ),
    "reserve: tenants": Long("reserve", then(tenants(50, 10, 60_000), *reserve())),
    "reserve: small": Long(
        "reserve", then(in_lane(2_000, lambda one: large(one, 1_000)), *reserve(1_000))
    ),
    "position: tenants": Long(
        "queue_position", lambda client: tenants(50, 10, 60_000)(client)[-20:], ()
    ),
    "position: beside": Long(
        "queue_position", lambda client: tenants(2, 100, 60_000)(client)[-20:], ()
    ),
    "position": Long("queue_position", lambda client: in_lane(100)(client)[40:60], ()),
    "reap: leases": Long("reap", then(leased(100), *REAP)),
    "reap: delayed": Long("reap", delayed),
    "reap: tenants": Long("reap", then(tenants(50, 10, 60_000), *REAP)),
    "release": Long("release", lambda client: [LANE, *TRIPLE(leased(100, NOW)(client), "1")]),
    "reclaim": Long("reclaim", then(leased(20, NOW), LANE, "n.", 256)),
    "reconcile": Long("reconcile", lambda client: [LANE, TTL, "1", *in_lane(100)(client)]),
    "drop_lane": Long("drop_lane", then(in_lane(100), LANE, 500, TTL)),
    "finish": Long("finish", lambda client: finish(leased(512, NOW)(client), 6_000)),
    "finish: 1,000 followers": Long("finish", shared(1, 1_000, 500, 1_000)),
    "finish: 1,000 followers of a large result": Long("finish", shared(1, 1_000, 1_000, 100_000)),
    "finish: 16 leaders with 500 followers": Long("finish", shared(16, 500, 2_000, 1_000)),
    "finish: a full outbox": Long("finish", outbox),
    "cancel: 1,000 followers": Long(
        "cancel", then(shared(1, 1_000, 3_000, 10), "job-00000", TTL, "canceled"), ()
    ),
    "enqueue": Long("enqueue", enqueued(500, 8_000), ()),
    "enqueue: few large": Long("enqueue", enqueued(30, OWN), ()),
    "dead_retry": Long("dead_retry", lambda client: [8, "", 0, 1, 0, *letters(100, OWN)(client)]),
    "dead_letters": Long("dead_letters", letters(100, OWN)),
    "dead_purge": Long("dead_purge", letters(1_000, 1_000)),
    "retry": Long(
        "retry", lambda client: [LANE, *TRIPLE(leased(25)(client), "5", "", "broken", "", "")]
    ),
    "bury": Long(
        "bury",
        lambda client: [
            LANE,
            TTL,
            10_000,
            "w",
            *TRIPLE(leased(25)(client), "attempts_exhausted", "broken", 3, ""),
        ],
    ),
}


@pytest.fixture
def client(redis_client: Redis) -> Iterator[Redis]:
    redis_client.flushall()
    yield redis_client
    redis_client.flushall()


QUICK = (
    "reserve: own",
    "reserve: small, then large ones",
    "reserve: too large",
    "position: tenants",
    "release",
    "finish: 1,000 followers",
    "finish: 1,000 followers of a large result",
    "enqueue",
)
"""Those of every run; the others are marked slow."""


@pytest.mark.parametrize(
    "name", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in CALLS]
)
def test_a_call_is_short(name: str, client: Redis) -> None:
    long = CALLS[name]
    spent = MOST_SECONDS
    for _ in range(3):  # neighbours in a processor's caches cost CPU time too
        client.flushall()
        args = long.fill(client)
        scripts = Scripts(client)
        scripts._load(long.script)
        client.script_load(scripts._loaded[long.script].text)
        client.slowlog_reset()
        before = cpu_seconds(client)
        scripts.run(long.script, long.keys, args)
        spent = min(spent, cpu_seconds(client) - before)
        slowest = max((one["duration"] for one in client.slowlog_get(100)), default=0)
        print(f"{name}: {spent * 1000:.1f} ms of CPU, slow log {slowest / 1000:.1f} ms")
        if spent < MOST_SECONDS:
            return
    pytest.fail(f"{name} took {spent * 1000:.1f} ms of CPU at least")
