"""What the tests of single scripts share: an empty server filled, called and compared whole.

A state is a mapping of keys: text, list, hash (dict) or sorted set (Z). `then` names the keys
that the call changes, None where it removes them; every other key must be as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from common.jobs.job import CacheTicket, Job
from common.jobs.message import build_message
from common.redis.keys import META_PREFIX, LaneKeys
from common.redis.scripts import Scripts
from tests.support.moves import moves_between, moves_in_header, states_of

LANE = "echo"
KEYS = LaneKeys.of(LANE)
TTL = 100
FAR_MS = 4_000_000_000_000
DIGEST = "d" * 64
FLIGHT = f"lf:flight:{LANE}:{DIGEST}"
FOLLOWERS, COUNTS = "lf:followers:", f"lf:lane:{LANE}:tenants"
IN_FLIGHT = "lf:tenants:in_flight"
PLACED = f"lf:lane:{LANE}:placed:1"

State = Mapping[str, Any]


class Z(dict[str, Any]):
    """A sorted set: member -> score."""


class Like:
    """Text that this pattern matches whole."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and re.fullmatch(self.pattern, other, re.DOTALL) is not None

    def __hash__(self) -> int:
        return hash(self.pattern)

    def __repr__(self) -> str:
        return f"Like({self.pattern!r})"


class Says:
    """A result, or a dead letter's first line, that says at least this of the job."""

    def __init__(self, status: str = "", **about: object) -> None:
        self.status, self.about = status, about

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return False
        found = json.loads(other.partition("\n")[0])
        if found.get("status", "") != self.status:
            return False
        about = found.get("lanefleet", found)
        return {name: about.get(name) for name in self.about} == self.about

    def __hash__(self) -> int:
        return hash(self.status)

    def __repr__(self) -> str:
        return f"Says({self.status!r}, {self.about})"


class Within:
    """A number in this span."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int | float) and self.low <= other <= self.high

    def __hash__(self) -> int:
        return hash(self.low)

    def __repr__(self) -> str:
        return f"Within({self.low}, {self.high})"


NOW_MS = Within(1_700_000_000_000, FAR_MS)


@dataclass(frozen=True)
class Case:
    """One call of a script."""

    says: str
    args: Sequence[Any]
    returns: Any
    given: State = field(default_factory=dict)
    then: State = field(default_factory=dict)
    moves: str = ""
    """As in the header of the script."""
    keys: Sequence[str] = tuple(KEYS.as_list())
    published: Sequence[str] = ()
    """The channels, in any order."""


def says(case: Case) -> str:
    """Its name in pytest's list."""
    return case.says.replace(" ", "_")


def message(job_id: str, tenant: str = "") -> str:
    """A message of our own."""
    return build_message(job(job_id, tenant)).decode()


def job(job_id: str, tenant: str = "", **fields: Any) -> Job:
    """A job of the lane."""
    return Job(LANE, "text", id=job_id, tenant=tenant, **fields)


def ticket(**fields: Any) -> CacheTicket:
    """What lets a job share its run."""
    return CacheTicket(DIGEST, LANE, "w", **fields)


def stored(job_id: str, tenant: str = "") -> str:
    """A leased message, as it is kept."""
    return f'[{message(job_id, tenant)},"","{LANE}"]'


def result(job_id: str, **about: Any) -> str:
    """A success as workers write it."""
    known = {"state": "succeeded", "finished_ms": 5, "created_ms": 1, "started_ms": 2, **about}
    return json.dumps(
        {"status": "SUCCESS", "result": 1, "task_id": job_id, "lanefleet": known},
        separators=(",", ":"),
    )


def leased(job_id: str, tag: str, tenant: str = "", **record: Any) -> dict[str, Any]:
    """The keys of one leased job; for several, see `together`."""
    return {
        f"lf:job:{job_id}": leased_record(tag, tenant, **record),
        KEYS.unacked: {tag: stored(job_id, tenant)},
        KEYS.index: Z({tag: FAR_MS}),
    }


def leased_record(tag: str, tenant: str = "", attempts: int = 0, deliveries: int = 0) -> str:
    """The record of a leased job, accepted at 1, started at 2."""
    origin = f"1:{tenant}" if tenant else "1"
    return f"r {LANE} {origin} 0 {attempts} {deliveries} {tag} 2 w "


def waiting_record(
    attempts: int = 0, deliveries: int = 0, tenant: str = "", error: str = "", worker: str = "-"
) -> str:
    """The record of a job that waits again."""
    origin = f"1:{tenant}" if tenant else "1"
    return f"q {LANE} {origin} 0 {attempts} {deliveries} - 0 {worker} {error}"


def promoted_record(attempts: int = 0) -> str:
    """The record of a follower that leads from now on."""
    return waiting_record(attempts, worker="")


def follower_record(leader: str, tenant: str = "", deadline_ms: int = 0) -> str:
    """The record of a job that follows another."""
    origin = f"1:{tenant}" if tenant else "1"
    return f"w {LANE} {origin} {deadline_ms} 0 0 {leader}"


def led(leader: str, *followers: str, waits: str = "") -> dict[str, Any]:
    """The keys of a flight: these follow; the message of `waits` still waits in its lane."""
    entries = {one: "1 0 " + ("" if one == waits else message(one)) for one in followers}
    return {
        FOLLOWERS + leader: {"": f"1 0 {LANE}:{DIGEST}", **entries},
        KEYS.followers: Z(dict.fromkeys(followers, float("inf"))),
        FLIGHT: f"1 0 {leader}",
        **{f"lf:job:{one}": follower_record(leader) for one in followers},
    }


def together(*states: State) -> dict[str, Any]:
    """One state of several; hashes and sorted sets are joined."""
    made: dict[str, Any] = {}
    for state in states:
        for key, value in state.items():
            if isinstance(value, dict) and key in made:
                made[key] = type(value)({**made[key], **value})
            else:
                made[key] = value
    return made


def fill(client: Redis, state: State) -> None:
    """Write the state to an empty server."""
    client.flushdb()
    pipe = client.pipeline(transaction=False)
    for key, value in state.items():
        if isinstance(value, Z):
            pipe.zadd(key, value)
        elif isinstance(value, dict):
            pipe.hset(key, mapping=value)
        elif isinstance(value, list) and isinstance(value[0], dict):
            for number, entry in enumerate(value, 1):
                pipe.xadd(key, entry, id=f"{number}-0")
        elif isinstance(value, list):
            pipe.rpush(key, *value)
        else:
            pipe.set(key, value, ex=1000 if key.startswith(META_PREFIX) else None)
    pipe.execute()


def dump(client: Redis) -> dict[str, Any]:
    """Everything the server holds, but the streams of job lists."""
    return {
        key.decode("latin-1"): _value(client, key)
        for key in client.keys("*")  # type: ignore[union-attr]
        if not key.startswith(b"lf:jobs:")
    }


def _value(client: Redis, key: bytes) -> Any:
    kind = client.type(key)
    if kind == b"zset":
        return Z({_text(name): score for name, score in client.zrange(key, 0, -1, withscores=True)})  # type: ignore[misc]
    if kind == b"hash":
        return {_text(name): _text(value) for name, value in client.hgetall(key).items()}  # type: ignore[union-attr]
    if kind == b"stream":
        entries: Any = client.xrange(key)
        return [
            {_text(name): _text(value) for name, value in fields.items()} for _, fields in entries
        ]
    if kind == b"list":
        return [_text(one) for one in client.lrange(key, 0, -1)]  # type: ignore[union-attr]
    return _text(client.get(key) or b"")  # type: ignore[arg-type]


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


def plain(reply: Any) -> Any:
    """A reply with text for bytes."""
    if isinstance(reply, list):
        return [plain(one) for one in reply]
    return _text(reply) if isinstance(reply, bytes) else reply


def check(client: Redis, script: str, case: Case) -> None:
    """Run the case: what is returned, what every key holds then, who moved, who was told."""
    fill(client, case.given)
    before = states_of(client)
    with client.pubsub() as listener:
        listener.psubscribe("*")
        listener.get_message(timeout=20)
        reply = Scripts(client).run(script, case.keys, [_word(one) for one in case.args])
        listener.ping()
        heard = []
        while (told := listener.get_message(timeout=20)) and told["type"] != "pong":
            heard.append(_text(told["channel"]))
    assert plain(reply) == case.returns
    wanted = {key: value for key, value in {**case.given, **case.then}.items() if value is not None}
    # When somebody last reaped is written at every call; a case that is about it says so.
    found, wanted = (
        {key: held for key, held in one.items() if key in case.then or not key.endswith(":pulse")}
        for one in (dump(client), wanted)
    )
    differing = {key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)}
    assert {key: found.get(key) for key in differing} == {key: wanted.get(key) for key in differing}
    assert sorted(heard) == sorted(case.published)
    moves = moves_between(script, before, states_of(client))
    assert moves == parse_moves(script, [case])
    assert moves <= moves_in_header(script)


def parse_moves(script: str, cases: Iterable[Case]) -> set[tuple[str, str, str]]:
    """What these cases move."""
    pairs = [pair for case in cases for pair in case.moves.split(", ") if pair]
    return {(script, *pair.split("->")) for pair in pairs}  # type: ignore[misc]


def _word(value: Any) -> Any:
    return value if isinstance(value, bytes | str | int | float) else str(value)


def cpu_seconds(client: Redis) -> float:
    """What the server's main thread has spent."""
    spent: Any = client.info("cpu")
    return float(spent["used_cpu_user_main_thread"]) + float(spent["used_cpu_sys_main_thread"])
