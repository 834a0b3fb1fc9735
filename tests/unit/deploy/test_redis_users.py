"""The shipped ACL: the file loads as it is, and each role may run what is listed here, no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from api.cli.acl import acl_text, passwords
from common.catalog import load_catalog
from common.errors import ConfigurationError
from common.redis.connect import connect
from common.redis.script_text import script_text
from common.settings import Settings
from tests.support.stack import REDIS_KINDS, ROOT, running_redis

SHIPPED = ROOT / "deploy" / "redis" / "users.acl"
ROLES = ("api", "worker", "keda", "flower", "courier")
API_SCRIPTS = (
    "add_batch",
    "add_file",
    "cancel",
    "claim_idempotency_key",
    "dead_letters",
    "dead_purge",
    "dead_retry",
    "drop_lane",
    "enqueue",
    "expire",
    "list_jobs",
    "move_batch",
    "move_breaker",
    "oldest_jobs",
    "outbox_retry",
    "queue_position",
    "reap",
)
COURIER_SCRIPTS = (
    "enqueue",
    "finish",
    "reap",
    "reclaim",
    "release",
    "renew",
    "reserve",
    "retry",
)
CONNECTION = "auth echo hello ping quit reset select"
SCRIPTS = "eval evalsha script|exists script|load"
CHANNELS = "psubscribe publish punsubscribe subscribe unsubscribe"
TRANSACTIONS = "discard exec multi unwatch watch"
MAY = {
    "api": f"{CONNECTION} {SCRIPTS} {CHANNELS} {TRANSACTIONS} del exists expire get getrange hdel "
    "hexists hget hgetall hincrby hkeys hlen hmget hset hvals incrby info lindex llen lmove lpush "
    "lrange lrem mget mset persist pttl rpop rpush set smembers time ttl unlink xadd xdel xlen "
    "xrange xrevrange xtrim zadd zcard zcount zrandmember zrange zrangebyscore zrem zrevrange "
    "zrevrangebyscore",
    "worker": f"{CONNECTION} {SCRIPTS} {CHANNELS} {TRANSACTIONS} brpop client|id client|tracking "
    "del exists expire get getrange hdel hexists hget hgetall hincrby hkeys hlen hmget hset hvals "
    "incr incrby info lindex llen lmove lpush lrange lrem mget mset persist pexpire pttl rpop "
    "rpush sadd scan set setex setnx smembers srem time ttl xack xadd xautoclaim xdel "
    "xgroup|create xlen xpending xrange xreadgroup xrevrange xtrim zadd zcard zcount zpopmin "
    "zrandmember zrange zrangebyscore zrem zremrangebyscore zrevrangebyscore",
    "keda": f"{CONNECTION} {SCRIPTS} client|setname hlen llen scard type zcard",
    "flower": f"{CONNECTION} {SCRIPTS} {CHANNELS} {TRANSACTIONS} brpop del exists expire get hdel "
    "hget hmget hset info llen lpush pexpire sadd set smembers srem time zadd zrange zrangebyscore "
    "zrem zrevrangebyscore",
    "courier": f"{CONNECTION} {SCRIPTS} {CHANNELS} {TRANSACTIONS} "
    "del exists expire get getrange hdel hexists hget hgetall hincrby hkeys hlen hmget hset "
    "hsetnx hvals incrby info lindex llen lmove lpush lrange mget mset persist pttl rpop rpush set "
    "time unlink xack xadd xautoclaim xdel xgroup|create xlen xrange xreadgroup xtrim zadd zcard "
    "zpopmin zrandmember zrange zrangebyscore zrem zremrangebyrank zrevrange zrevrangebyscore",
}


def rules_of(role: str) -> list[str]:
    found = re.search(rf"^user {role} on >\S+ (.+)$", SHIPPED.read_text(), re.MULTILINE)
    assert found
    return found[1].split()


@pytest.fixture(scope="module", params=REDIS_KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Redis]:
    """A server that knows the shipped roles."""
    folder = tmp_path_factory.mktemp("acl")
    with (
        running_redis(folder, request.param) as running,
        connect(running.url, Settings()) as client,
    ):
        for role in ROLES:
            client.execute_command("ACL", "SETUSER", role, *rules_of(role))
        yield client


def commands_of(client: Redis) -> list[str]:
    """Every command of the server, with its subcommands as ACL names them."""
    connection: Any = client.connection_pool.get_connection()
    connection.send_command("COMMAND")  # redis-py's own leaves subcommands out
    found = connection.read_response()
    client.connection_pool.release(connection)
    names = []
    for one in found:
        subcommands = one[9] if len(one) > 9 else []
        names += [sub[0].decode() for sub in subcommands] or [one[0].decode()]
    return names


def may_run(client: Redis, role: str, command: str) -> bool:
    """Whether the role is allowed the command, whatever its arguments."""
    for count in range(12):
        try:
            answer = client.execute_command(
                "ACL", "DRYRUN", role, *command.split("|"), *["1"] * count
            )
        except ResponseError as exc:
            if "arguments" in str(exc):
                continue
            raise
        return b"has no permissions to run" not in answer
    raise AssertionError(f"{command} takes more arguments")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_run_what_is_listed_and_no_other_command(server: Redis, role: str) -> None:
    allowed = {name for name in commands_of(server) if may_run(server, role, name)}
    assert allowed == set(MAY[role].split())


def test_roles_see_the_keys_and_channels_of_their_work(server: Redis) -> None:
    def answers(role: str, *words: str) -> bool:
        return bool(server.execute_command("ACL", "DRYRUN", role, *words) == b"OK")

    assert answers("api", "HGET", "lf:keys", "a")
    assert answers("keda", "LLEN", "echo")
    assert answers("flower", "SUBSCRIBE", "/0.celeryev/worker.heartbeat")
    assert answers("flower", "PUBLISH", "/0.celery.pidbox", "x")
    for key in ("lf:keys", "lf:job:1", "celery-task-meta-1", "echo"):
        assert not answers("flower", "GET", key), key
    assert answers("flower", "LLEN", "echo")
    assert answers("flower", "HMGET", "lf:lane:echo:over", "0")
    assert not answers("flower", "LPUSH", "echo", "forged")
    assert not answers("flower", "HSET", "lf:lane:echo:over", "0", "1")
    for channel in ("celery-task-meta-1", "lf:control", "lf:canceled"):
        assert not answers("flower", "PUBLISH", channel, "x"), channel
        assert not answers("keda", "PUBLISH", channel, "x"), channel


def test_the_shipped_file_is_what_the_command_writes_for_the_shipped_catalog() -> None:
    lanes = load_catalog(ROOT / "deploy" / "models.yaml")
    words = passwords((), lambda name: f">change-me-{name}")
    assert SHIPPED.read_text() == acl_text(lanes, words), (
        "lanefleet acl --placeholders --output deploy/redis/users.acl"
    )
    assert all(line.startswith("user ") for line in SHIPPED.read_text().splitlines())


def test_passwords_are_taken_as_hashes_files_or_none(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    digest = sha256(b"correct horse").hexdigest()
    given = (f"api=#{'a' * 64}", f"worker=@{secret}", "keda=nopass", "flower=off")
    found = passwords(given, lambda name: f">change-me-{name}")
    assert found == {
        "admin": ">change-me-admin",
        "api": "#" + "a" * 64,
        "worker": f"#{digest}",
        "keda": "nopass",
        "flower": "off",
        "courier": ">change-me-courier",
    }
    lines = acl_text(["echo"], found).splitlines()
    assert lines[0] == "user default off"
    assert lines[4].startswith("user keda on nopass ~echo ~echo??[369] ~lf:lane:echo:* ")
    assert lines[5].startswith("user flower off ~_kombu.* ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("api=hunter2", "a password itself is not taken"),
        ("api=#abc", "64 hexadecimal digits"),
        ("api", "roles are admin, api, worker, keda, flower, courier"),
        ("broker=nopass", "roles are admin"),
        ("api=@/nowhere/secret", "cannot read /nowhere/secret: No such file"),
    ],
)
def test_a_bad_password_gets_a_sentence_without_it(given: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        passwords([given], lambda name: "nopass")
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_role_is_given_one_password_of_one_line(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("two\nlines\n")
    with pytest.raises(ConfigurationError, match="must have one line"):
        passwords([f"api=@{secret}"], lambda name: "nopass")
    with pytest.raises(ConfigurationError, match="given twice"):
        passwords(["api=nopass", "api=off"], lambda name: "nopass")


@pytest.mark.parametrize("name", COURIER_SCRIPTS)
def test_the_courier_may_run_every_command_of_its_scripts(name: str) -> None:
    called = set(re.findall(r"redis\.p?call\('(\w+)'", script_text(name, server_major=7)))
    assert {one.lower() for one in called} <= set(MAY["courier"].split())


@pytest.mark.parametrize("name", API_SCRIPTS)
def test_the_api_may_run_every_command_of_its_scripts(name: str) -> None:
    called = set(re.findall(r"redis\.p?call\('(\w+)'", script_text(name, server_major=7)))
    assert {one.lower() for one in called} <= set(MAY["api"].split())
