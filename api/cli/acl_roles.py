"""What each role may do at the queue's Redis: the one place that says it.

Commands are listed, never categories: those grow with the server. No role may pause, kill or
configure the server, run KEYS or flush it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.redis.keys import (
    CANCELED_CHANNEL,
    CONTROL_CHANNEL,
    LANE_PREFIX,
    META_PREFIX,
    SAID_PREFIX,
    STARVED_CHANNEL,
)

_CONNECTION = "auth hello ping quit select reset echo"
_SCRIPTS = "eval evalsha script|exists script|load"
_CHANNELS = "publish subscribe psubscribe unsubscribe punsubscribe"
_TRANSACTIONS = "multi exec discard watch unwatch"

_API = (
    "del exists expire get getrange hdel hexists hget hgetall hincrby hkeys hlen hmget hset hvals "
    "incrby info lindex llen lmove lpush lrange lrem mget mset persist pttl rpop rpush set "
    "smembers time ttl unlink xadd xdel xlen xrange xrevrange xtrim zadd zcard zcount zrandmember "
    "zrange zrangebyscore zrem zrevrange zrevrangebyscore"
)
_WORKER = (
    "brpop client|id client|tracking del exists expire get getrange hdel hexists hget hgetall "
    "hincrby hkeys hlen hmget hset hvals incr incrby info lindex llen lmove lpush lrange lrem mget "
    "mset persist pexpire pttl rpop rpush sadd scan set setex setnx smembers srem time ttl xack "
    "xadd xautoclaim xdel xgroup|create xlen xpending xrange xreadgroup xrevrange xtrim zadd zcard "
    "zcount zpopmin zrandmember zrange zrangebyscore zrem zremrangebyscore zrevrangebyscore"
)
_COURIER = (
    "del exists expire get getrange hdel hexists hget hgetall hincrby hkeys hlen hmget hset "
    "hsetnx hvals incrby info lindex llen lmove lpush lrange mget mset persist pttl rpop rpush set "
    "time unlink xack xadd xautoclaim xdel xgroup|create xlen xrange xreadgroup xtrim zadd zcard "
    "zpopmin zrandmember zrange zrangebyscore zrem zremrangebyrank zrevrange zrevrangebyscore"
)
_KEDA = "client|setname hlen llen scard type zcard"
_FLOWER = (
    "brpop del exists expire get hdel hget hset info llen lpush pexpire sadd set smembers srem "
    "time zadd zrange zrangebyscore zrem zrevrangebyscore"
)


@dataclass(frozen=True, slots=True)
class Role:
    """One user of the ACL file."""

    name: str
    commands: tuple[str, ...]
    """Groups of commands, in the order of the file."""
    channels: tuple[str, ...] = ()
    keys: tuple[str, ...] = ("*",)
    of_lanes: bool = False
    """Whether its keys are the lanes' lists and hashes instead."""
    reads_of_lanes: str = ""
    """What it may do besides to those of lanes, which it may not write; needs Redis 7 or Valkey."""

    def rules(self, lanes: Sequence[str]) -> list[str]:
        """The words after its password."""
        keys = [key for lane in lanes for key in _keys_of(lane)] if self.of_lanes else self.keys
        names = " ".join(self.commands).split()
        reads = [f"%R~{key}" for lane in lanes for key in _keys_of(lane)]
        reading = " ".join([*reads, *(f"+{name}" for name in self.reads_of_lanes.split())])
        return [
            *(f"~{key}" for key in keys),
            "resetchannels",
            *(f"&{channel}" for channel in self.channels),
            "-@all",
            *(f"+{name}" for name in names),
            *([f"({reading})"] if self.reads_of_lanes and lanes else []),
        ]


ROLES = (
    Role(
        "api",
        (_CONNECTION, _CHANNELS, _TRANSACTIONS, _SCRIPTS, _API),
        channels=tuple(
            f"{name}*"
            for name in (
                *(META_PREFIX, CANCELED_CHANNEL, CONTROL_CHANNEL, STARVED_CHANNEL),
                SAID_PREFIX,
            )
        ),
    ),
    Role(
        "worker",
        (_CONNECTION, _CHANNELS, _TRANSACTIONS, _SCRIPTS, _WORKER),
        channels=("*",),
    ),
    Role("keda", (_CONNECTION, _SCRIPTS, _KEDA), of_lanes=True),
    Role(
        "flower",
        (_CONNECTION, _CHANNELS, _TRANSACTIONS, _SCRIPTS, _FLOWER),
        channels=(
            "/0.celery.pidbox",
            "/0.reply.celery.pidbox",
            "/0.celeryev*",
            "/0.celeryev/*",
        ),
        keys=("_kombu.*", "unacked*", "celeryev.*", "*.reply.celery.pidbox*"),
        reads_of_lanes="llen hmget",  # the lengths of queues
    ),
    Role(
        "courier",
        (_CONNECTION, _CHANNELS, _TRANSACTIONS, _SCRIPTS, _COURIER),
        channels=tuple(f"{name}*" for name in (META_PREFIX, CANCELED_CHANNEL, STARVED_CHANNEL)),
    ),
)
"""Every role but `admin`, which may do everything; the `default` user is off."""


def _keys_of(lane: str) -> tuple[str, ...]:
    """The lists of its bands, whose names have two control characters, and its own keys."""
    return (lane, f"{lane}??[369]", f"{LANE_PREFIX}{lane}:*")
