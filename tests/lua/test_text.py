"""What every Lua file is held to: its form, its size, what it includes, names, keys and calls."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from common.errors import ConfigurationError
from common.jobs.enqueue import EnqueueCall, EnqueuedJob, EnqueueTenant, enqueue_args
from common.jobs.quota import Limits
from common.jobs.script_calls import (
    BreakerMove,
    CancelCall,
    ClaimCall,
    DropCall,
    ExpireCall,
    ListJobsCall,
    ReapCall,
)
from common.redis import keys as key_names
from common.redis import script_text as loader
from common.redis.connect import connect
from common.redis.script_text import included_by, script_names, script_text, source_of
from common.settings import Settings
from tests.lua.cases import job, parse_moves, ticket
from tests.support.moves import moves_in_header
from tests.support.stack import REDIS_KINDS, ROOT, running_redis
from worker.jobs import lease_calls
from worker.maintenance.reconciler import ReconcileCall
from worker.maintenance.reporter import LaneFingerprint, ReportCall

FOLDER = ROOT / "common" / "redis" / "lua"
FILES = {path.stem: path for path in sorted(FOLDER.glob("*/*.lua"))}
INCLUDES = {name: path for name, path in FILES.items() if path.parent.name == "include"}
HEADER = ("Purpose", "KEYS", "ARGV", "Returns", "Moves", "Tests")
MOST_LINES = 100

every_file = pytest.mark.parametrize("path", FILES.values(), ids=FILES)
every_script = pytest.mark.parametrize("name", script_names())


def code_of(path: Path) -> str:
    """Without comments."""
    return re.sub(r"--.*", "", path.read_text())


def names_in(code: str) -> set[str]:
    """The words of a file outside of its strings, and not after a dot or a key of a table."""
    without = re.sub(r"'(?:[^'\\]|\\.)*'", "''", code)
    return set(re.findall(r"(?<![\w.])([A-Za-z_]\w*)", without))


def defined_by(name: str) -> set[str]:
    """What an include offers: its names outside of all functions."""
    found: set[str] = set()
    for names, function in re.findall(
        r"^local (?!function)([\w, ]+?)(?: =|$)|^local function (\w+)",
        code_of(INCLUDES[name]),
        re.MULTILINE,
    ):
        found |= {function} if function else {one.strip() for one in names.split(",")}
    return found


def own_names(code: str) -> set[str]:
    """What a file declares anywhere: locals, parameters, loop variables, fields of tables."""
    patterns = (
        r"local (?!function)([\w, ]+)",
        r"function ?(\w*)\(",
        r"function ?\w*\(([\w, ]*)",
        r"for ([\w, ]+?) (?:=|in)",
        r"[{,]\s*(\w+) = ",
    )
    lists = (found for pattern in patterns for found in re.findall(pattern, code))
    return {name.strip() for names in lists for name in names.split(",")}


def header_of(name: str) -> str:
    """The comment that a script begins with."""
    return source_of(name).partition("\n\n")[0]


def words_in(name: str, group: str = "") -> list[str]:
    """The words that a header lists: of the call, or of `per <group>`."""
    argv = header_of(name).partition("-- ARGV:")[2].partition("-- Returns")[0]
    call, *groups = re.split(r"^--   per ", argv, flags=re.MULTILINE)
    text = next((one for one in groups if one.startswith(f"{group}:")), "") if group else call
    listed = re.findall(r"^-- +(\d+) (\w+)", text, re.MULTILINE)
    assert [int(number) for number, _ in listed] == list(range(1, len(listed) + 1))
    return [word for _, word in listed]


@pytest.mark.parametrize("kind", REDIS_KINDS)
def test_every_script_loads(kind: str, tmp_path: Path, redis_client: Redis) -> None:
    if kind == "embedded":
        load_all(redis_client)
        return
    with running_redis(tmp_path, kind) as server, connect(server.url, Settings()) as client:
        load_all(client)


def load_all(client: Redis) -> None:
    major = int(client.info("server")["redis_version"].split(".")[0])
    for name in script_names():
        assert client.script_load(script_text(name, server_major=major))


@every_file
def test_no_file_is_long(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= 100


@every_file
def test_a_file_includes_exactly_what_it_uses(path: Path) -> None:
    code = code_of(path)
    foreign = names_in(code) - own_names(code)
    needed = {name for name in INCLUDES if defined_by(name) & foreign}
    listed = included_by(path.read_text())
    assert set(listed) == needed
    assert len(listed) == len(set(listed))


def test_no_name_is_defined_by_two_includes() -> None:
    owners: dict[str, str] = {}
    for include in INCLUDES:
        for name in defined_by(include):
            assert name not in owners, f"{name}: {owners.get(name)} and {include}"
            owners[name] = include


def test_no_function_is_declared_before_it_is_defined() -> None:
    """Mutual recursion would need that."""
    for path in FILES.values():
        assert not re.search(r"^local \w+$", code_of(path), re.MULTILINE), path


@every_script
def test_a_script_says_what_it_is(name: str) -> None:
    header = header_of(name)
    assert tuple(re.findall(r"^-- (\w+):", header, re.MULTILINE)) == HEADER
    assert re.match(r"-- Purpose: [A-Z].*\.$", header.splitlines()[0])
    tests = re.search(r"^-- Tests: (.+)$", header, re.MULTILINE)
    assert tests
    assert tests[1] == f"tests/lua/test_{name}.py"
    assert (ROOT / tests[1]).is_file()


@every_script
def test_a_script_names_its_keys_at_its_top(name: str) -> None:
    for line in code_of(FILES[name]).splitlines():
        assert "KEYS" not in line or re.match(r"local [\w, ]+ = ", line), line


@every_script
def test_the_cases_of_a_script_show_all_its_moves(name: str) -> None:
    module = import_module(f"tests.lua.test_{name}")
    assert parse_moves(name, getattr(module, "CASES", ())) == moves_in_header(name)


CALLS = {
    ("enqueue", ""): EnqueueCall,
    ("enqueue", "tenant"): EnqueueTenant,
    ("enqueue", "job"): EnqueuedJob,
    ("reserve", ""): lease_calls.ReserveCall,
    ("start", ""): lease_calls.StartCall,
    ("finish", ""): lease_calls.FinishCall,
    ("finish", "job"): lease_calls.FinishedJob,
    ("lead", "job"): lease_calls.LeadingJob,
    ("release", "job"): lease_calls.ReleasedJob,
    ("retry", "job"): lease_calls.RetryJob,
    ("bury", ""): lease_calls.BuryCall,
    ("bury", "job"): lease_calls.DeadLetter,
    ("reclaim", ""): lease_calls.ReclaimCall,
    ("reap", ""): ReapCall,
    ("report_worker", ""): ReportCall,
    ("report_worker", "lane"): LaneFingerprint,
    ("cancel", ""): CancelCall,
    ("drop_lane", ""): DropCall,
    ("expire", ""): ExpireCall,
    ("reconcile", ""): ReconcileCall,
    ("list_jobs", ""): ListJobsCall,
    ("claim_idempotency_key", ""): ClaimCall,
    ("move_breaker", ""): BreakerMove,
}


@pytest.mark.parametrize(("name", "group"), CALLS)
def test_the_words_of_a_call_have_one_order_on_both_sides(name: str, group: str) -> None:
    assert tuple(words_in(name, group)) == CALLS[name, group]._fields


def test_jobs_are_enqueued_in_that_order() -> None:
    limits = Limits(jobs_per_second=3, burst=4, max_in_flight=5)
    sent = job(
        "a", "acme", priority=3, blob=b"large", deadline_ms=77, cache=ticket(max_age_seconds=6),
        limits=limits, labels={"run": "1", "by": "me"}, webhook="ep_1",
    )  # fmt: skip
    words = enqueue_args([sent], 10, 2, 30)
    assert EnqueueCall(*words[:5]) == EnqueueCall(10, 2, 30, len(EnqueuedJob._fields), 1)  # type: ignore[arg-type]
    assert EnqueueTenant(*words[5:9]) == EnqueueTenant("acme", 3, 4, 5)  # type: ignore[arg-type]
    known = EnqueuedJob(*words[9:])  # type: ignore[arg-type]
    assert known._replace(message=b"") == EnqueuedJob(
        lane="echo",
        band_key=key_names.band_key("echo", 3),
        job_id="a",
        message=b"",
        expires_ms=77,
        blob=b"large",
        tenant="acme",
        flight=f"echo:{ticket().digest}",
        band=2,
        deadline_ms=77,
        max_age_seconds=6,
        labels="by=me,run=1",
        next=b'{"webhook":"ep_1"}\n',
    )


@pytest.mark.parametrize(
    ("fields", "width"),
    [
        ({}, 4),
        ({"blob": b"x"}, 7),
        ({"tenant": "t"}, 7),
        ({"cache": 1}, 11),
        ({"labels": {"run": "1"}}, 12),
    ],
)
def test_words_that_are_empty_for_all_are_left_out(fields: dict[str, object], width: int) -> None:
    if "cache" in fields:
        fields = {"cache": ticket()}
    args = enqueue_args([job("a"), job("b", **fields)], 10, 2)  # type: ignore[arg-type]
    assert args[3] == width
    assert len(args) == 5 + 4 * ("tenant" in fields) + 2 * width


PYTHON_NAMES = {
    "JOB": key_names.JOB_PREFIX,
    "META": key_names.META_PREFIX,
    "BLOB": key_names.BLOB_PREFIX,
    "LANE": key_names.LANE_PREFIX,
    "IN_FLIGHT": key_names.TENANTS_IN_FLIGHT,
    "RATE": key_names.RATE_PREFIX,
    "JOBS": key_names.JOBS_PREFIX,
    "FLIGHT": key_names.FLIGHT_PREFIX,
    "FOLLOWERS": key_names.FOLLOWERS_PREFIX,
    "NEXT": key_names.NEXT_PREFIX,
    "OUTBOX": key_names.OUTBOX,
    "OUTBOX_FAILED": key_names.OUTBOX_FAILED,
    "EVENTS": key_names.EVENTS,
    "CANCELED": key_names.CANCELED_CHANNEL,
    "STARVED": key_names.STARVED_CHANNEL,
    "SCOPE": key_names.channel_scope(0),
}


def lua_names() -> Iterator[tuple[str, str]]:
    """The names of key prefixes in Lua, and their text."""
    for names, values in re.findall(
        r"^local ([A-Z_, ]+) = ('.*')", code_of(INCLUDES["keys"]), re.MULTILINE
    ):
        yield from zip(names.split(", "), re.findall(r"'([^']*)'", values), strict=True)


def test_both_languages_name_keys_alike(redis_client: Redis) -> None:
    assert dict(lua_names()) == PYTHON_NAMES
    keys = INCLUDES["keys"].read_text()
    suffixes = redis_client.eval(f"{keys}\nreturn BAND_SUFFIX", 0)
    assert [b"x" + one for one in suffixes] == [  # type: ignore[union-attr]
        key_names.band_key("x", band).encode() for band in key_names.BANDS
    ]


@every_script
def test_every_channel_of_ours_is_scoped_by_database(name: str) -> None:
    text = script_text(name, server_major=7, database=5)
    if "local CANCELED" in text:
        assert f"local SCOPE = '{key_names.channel_scope(5)}'" in text
    channels = re.findall(r"'PUBLISH', (.+?), ", text)
    assert all(one.endswith(" .. SCOPE") or one.startswith(("META", "result")) for one in channels)


@every_file
def test_keys_are_those_of_the_table(path: Path) -> None:
    code, table = code_of(path), key_names.__doc__ or ""
    if path.stem != "keys":
        assert not re.findall(r"'(?:lf:|celery-)[^']*'", code)
    for part in re.findall(r"LANE \.\. [\w.]+ \.\. ':(\w+)", code):
        assert f"`lf:lane:<lane>:{part}" in table, part


def test_no_other_module_spells_a_key() -> None:
    spelled = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in ("api", "common", "worker")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "keys.py"
        for line in path.read_text().splitlines()
        if re.search(r"""f?["'](?:lf:|celery-task-meta-)""", line)
    ]
    assert not spelled


USERS = (ROOT / "deploy" / "redis" / "users.acl").read_text()
WORKERS_ONLY = {"reserve", "start", "renew", "finish", "release", "retry", "bury",
                "reclaim", "reconcile", "report_worker", "lead", "continue"}  # fmt: skip


def dry_run(client: Redis, command: str) -> bytes:
    """What the server would say to the role, with as many words as the command takes."""
    for count in range(6):
        try:
            return client.execute_command("ACL", "DRYRUN", "tried", command, *"abcdef"[:count])
        except ResponseError:
            continue  # another number of words
    raise AssertionError(command)


@every_script
def test_the_roles_that_run_a_script_may_call_what_it_calls(name: str, redis_client: Redis) -> None:
    called = {
        one.lower()
        for one in re.findall(r"redis\.p?call\('(\w+)'", script_text(name, server_major=7))
    }
    roles = ["worker"] if name in WORKERS_ONLY else ["worker", "api"]
    for role in roles:
        rules = re.search(rf"^user {role} on >\S+ (.+)$", USERS, re.MULTILINE)
        assert rules
        redis_client.acl_deluser("tried")
        redis_client.execute_command("ACL", "SETUSER", "tried", *rules[1].split())
        for command in sorted(called):
            answer = dry_run(redis_client, command)
            assert b"has no permissions to run" not in answer, (role, command)
    redis_client.acl_deluser("tried")


@pytest.fixture
def lua_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scripts of the test's own."""
    for folder in ("transitions", "queries", "registry", "include"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(loader, "_LUA", tmp_path)
    return tmp_path


def test_each_include_comes_once_and_after_what_it_needs(lua_folder: Path) -> None:
    (lua_folder / "transitions" / "s.lua").write_text("-- @include b, c\nreturn 1\n")
    (lua_folder / "include" / "a.lua").write_text("local a\n")
    (lua_folder / "include" / "b.lua").write_text("-- @include a\nlocal b\n")
    (lua_folder / "include" / "c.lua").write_text("-- @include a, b\nlocal c\n")
    text = script_text("s", server_major=7)
    code = [line for line in text.splitlines() if not line.startswith(("--", "#!"))]
    assert code == ["local a", "local b", "local c", "return 1"]


def run_text(client: Redis, name: str) -> object:
    return client.eval(script_text(name, server_major=7), 0)


def test_what_is_rarely_needed_is_defined_when_it_is_first_called(
    lua_folder: Path, redis_client: Redis
) -> None:
    (lua_folder / "transitions" / "s.lua").write_text(
        "-- @include a\n-- @rarely b\nlocal first = made\nlocal n = b(1) + b(2)\n"
        "return { first, made, n }\n"
    )
    (lua_folder / "include" / "a.lua").write_text("local made = 0\n")
    (lua_folder / "include" / "b.lua").write_text(
        "-- @include a, c\nmade = made + 1\nlocal function b(x) return helper(x) end\n"
    )
    (lua_folder / "include" / "c.lua").write_text("local function helper(x) return x * 10 end\n")
    assert run_text(redis_client, "s") == [0, 1, 30]


def test_what_two_groups_need_is_there_once(lua_folder: Path, redis_client: Redis) -> None:
    (lua_folder / "transitions" / "s.lua").write_text(
        "-- @rarely b\n-- @rarely c\nreturn { b(), c(), b() }\n"
    )
    (lua_folder / "include" / "a.lua").write_text(
        "local n = 0\nlocal function count() n = n + 1 return n end\n"
    )
    for name in "bc":
        text = f"-- @include a\nlocal function {name}() return count() end\n"
        (lua_folder / "include" / f"{name}.lua").write_text(text)
    assert run_text(redis_client, "s") == [1, 2, 3]


def test_an_unknown_include_is_named_with_the_way_to_it(lua_folder: Path) -> None:
    (lua_folder / "transitions" / "s.lua").write_text("-- @include a\n")
    (lua_folder / "include" / "a.lua").write_text("-- @include missing\n")
    with pytest.raises(ConfigurationError, match="s -> a -> missing"):
        script_text("s", server_major=7)


def test_a_circle_of_includes_is_named(lua_folder: Path) -> None:
    (lua_folder / "transitions" / "s.lua").write_text("-- @include a\n")
    (lua_folder / "include" / "a.lua").write_text("-- @include b\n")
    (lua_folder / "include" / "b.lua").write_text("-- @include a\n")
    with pytest.raises(ConfigurationError, match="s -> a -> b -> a"):
        script_text("s", server_major=7)


def test_an_unknown_script_is_named(lua_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="'s'"):
        script_text("s", server_major=7)
