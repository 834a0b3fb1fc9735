"""Loads the Lua scripts once and runs them by digest.

For two reasons: Redis 7 refuses a script at maxmemory unless its first line says `allow-oom`, and
Redis 6.2 does not know that line. And a server that restarted or failed over has no scripts
loaded.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import hiredis
import redis.asyncio
from redis import Redis
from redis.exceptions import NoScriptError, ResponseError

from common.errors import ConfigurationError
from common.redis.connect import database_of
from common.redis.keys import NOTHING, channel_scope
from common.redis.refusals import tell_refusal

REFUSED_WHEN_FULL = frozenset({"enqueue", "claim_idempotency_key", "add_batch"})
"""Scripts that accept new work; the others must run so that a full server drains."""

# On Redis 6.2 the memory check is skipped once a script has written, and DEL is
# never refused; so a first, harmless write replaces the flag of Redis 7.
_FLAGGED = "#!lua flags=allow-oom\n"
_WRITE_FIRST = f"redis.call('DEL', '{NOTHING}')\n"

_CALLS_AT_A_TIME = 12
_PIECE_BYTES = 1024 * 1024

_LUA: Traversable = files("common").joinpath("redis", "lua")
_SCOPE = "local SCOPE = ''"
"""The line of include/keys.lua that says what channels end in: no script can ask its database."""
_FOLDERS = ("transitions", "queries", "registry")

_INCLUDE = re.compile(r"^-- @include (.+)$", re.MULTILINE)

Args = Sequence[str | bytes | int | float]


@dataclass(frozen=True, slots=True)
class _Loaded:
    text: str
    digest: str

    def call(self, keys: Sequence[str], args: Args) -> bytes:
        """The command as RESP. redis-py would check every argument first, and copy some twice:
        a third of a microsecond each for the blocking client, two for the asyncio one.
        """
        command = ("EVALSHA", self.digest, len(keys), *keys, *args)
        return bytes(hiredis.pack_command(command))  # type: ignore[arg-type]


def script_names() -> list[str]:
    """Every script that can be run, by name."""
    found = (path.name for folder in _FOLDERS for path in _LUA.joinpath(folder).iterdir())
    return sorted(name.removesuffix(".lua") for name in found if name.endswith(".lua"))


def source_of(name: str) -> str:
    """The text of one script, without what it includes."""
    paths = (_LUA.joinpath(folder, f"{name}.lua") for folder in _FOLDERS)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ConfigurationError(f"no Lua script is called {name!r}")
    return path.read_text(encoding="utf-8")


def included_by(text: str) -> list[str]:
    """The names on its `-- @include` lines."""
    return [name.strip() for line in _INCLUDE.findall(text) for name in line.split(",")]


def _with_includes(text: str, chain: tuple[str, ...], done: dict[str, str]) -> None:
    """Add the includes of a text to `done`: each once, after its own includes."""
    for name in included_by(text):
        path = " -> ".join((*chain, name))
        if name in chain:
            raise ConfigurationError(f"Lua files include each other: {path}")
        if name in done:
            continue
        file = _LUA.joinpath("include", f"{name}.lua")
        if not file.is_file():
            raise ConfigurationError(f"there is no Lua file to include: {path}")
        part = file.read_text(encoding="utf-8")
        _with_includes(part, (*chain, name), done)
        done[name] = part


def script_text(name: str, *, server_major: int, database: int = 0) -> str:
    """The whole script as a server takes it: header, what it includes, transition.

    Raises ConfigurationError, with the chain, for an unknown name or a cycle.
    """
    header = ""
    if name not in REFUSED_WHEN_FULL:
        header = _FLAGGED if server_major >= 7 else _WRITE_FIRST
    text = source_of(name)
    parts: dict[str, str] = {}
    _with_includes(text, (name,), parts)
    whole = "".join(parts.values()) + text
    return header + whole.replace(_SCOPE, f"local SCOPE = '{channel_scope(database)}'")


_NEWEST_KNOWN = 7
"""The server's major version where it tells nothing of itself: all that matters is 7 or less."""


def _major(info: dict[str, Any]) -> int:
    return int(str(info.get("redis_version", _NEWEST_KNOWN)).split(".", 1)[0])


def _major_by_hello(reply: Any) -> int:
    """From the answer to HELLO, which is a list of names and values, or a map of them."""
    words = iter(
        reply.items() if isinstance(reply, dict) else zip(*[iter(reply)] * 2, strict=False)
    )
    said = {bytes(name): value for name, value in words if isinstance(name, bytes)}
    return int(bytes(said.get(b"version", b"%d" % _NEWEST_KNOWN)).split(b".", 1)[0])


def _tell(command: str, error: ResponseError) -> None:
    instead = "by HELLO" if command == "INFO" else f"taken to be {_NEWEST_KNOWN} or later"
    tell_refusal(command, f"the server's version is found out {instead}", error)


class Pending:
    """A script call whose reply has not been read yet, on a connection reserved for it."""

    def __init__(self, connection: Any, pool: Any, again: Callable[[], Any]) -> None:
        self._connection = connection
        self._pool = pool
        self._again = again

    def result(self) -> Any:
        """Wait for the reply; raises what redis-py raises. Call it once."""
        try:
            return self._connection.read_response()
        except NoScriptError:
            pass
        finally:
            self._pool.release(self._connection)
        return self._again()


class Scripts:
    """The scripts over one blocking client. Safe to share between threads."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._loaded: dict[str, _Loaded] = {}
        self._server_major: int | None = None

    def run(self, name: str, keys: Sequence[str], args: Args) -> Any:
        """Run one transition; raises what redis-py raises."""
        return self.send(name, keys, args).result()

    def send(self, name: str, keys: Sequence[str], args: Args) -> Pending:
        """Send one script call; its reply must be read. Raises what redis-py raises."""
        script = self._loaded.get(name) or self._load(name)
        command = script.call(keys, args)
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command([command])
        except BaseException:
            pool.release(connection)
            raise
        return Pending(connection, pool, lambda: self._again(script, keys, args))

    def _again(self, script: _Loaded, keys: Sequence[str], args: Args) -> Any:
        """Run it by its text, for a server that has not loaded it."""
        return self._client.eval(script.text, len(keys), *keys, *args)

    def _ask_major(self) -> int:
        try:
            return _major(self._client.info("server"))
        except ResponseError as exc:
            _tell("INFO", exc)
        try:
            return _major_by_hello(self._client.execute_command("HELLO"))
        except ResponseError as exc:
            _tell("HELLO", exc)
        return _NEWEST_KNOWN

    def _load(self, name: str) -> _Loaded:
        if self._server_major is None:
            self._server_major = self._ask_major()
        script = _prepare(name, self._server_major, database_of(self._client))
        self._loaded[name] = script
        return script


class AsyncScripts:
    """The scripts over one asyncio client, with a limit on concurrent calls.

    redis-py's pool raises when all of its 100 connections are in use.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._loaded: dict[str, _Loaded] = {}
        self._server_major: int | None = None
        self._turns = asyncio.Semaphore(_CALLS_AT_A_TIME)

    async def run(self, name: str, keys: Sequence[str], args: Args) -> Any:
        """Run one transition; raises what redis-py raises."""
        async with self._turns:
            return await self._run(name, keys, args)

    async def _run(self, name: str, keys: Sequence[str], args: Args) -> Any:
        script = self._loaded.get(name) or await self._load(name)
        pool = self._client.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command(script.call(keys, args))
            return await connection.read_response()
        except NoScriptError:
            pass
        finally:
            await pool.release(connection)
        return await self._client.eval(script.text, len(keys), *keys, *args)

    async def _ask_major(self) -> int:
        try:
            return _major(await self._client.info("server"))
        except ResponseError as exc:
            _tell("INFO", exc)
        try:
            return _major_by_hello(await self._client.execute_command("HELLO"))
        except ResponseError as exc:
            _tell("HELLO", exc)
        return _NEWEST_KNOWN

    async def _load(self, name: str) -> _Loaded:
        if self._server_major is None:
            self._server_major = await self._ask_major()
        script = _prepare(name, self._server_major, database_of(self._client))
        self._loaded[name] = script
        return script


async def set_large(
    client: redis.asyncio.Redis, key: str, value: bytes, options: Sequence[str]
) -> Any:
    """SET a large value without a copy of it; raises what redis-py raises."""
    words = (b"SET", key.encode(), value, *(one.encode() for one in options))
    left = memoryview(value)
    head = b"*%d\r\n" % len(words) + b"".join(map(_as_word, words[:2])) + b"$%d\r\n" % len(left)
    pool = client.connection_pool
    connection = await pool.get_connection()
    try:
        await connection.send_packed_command([head])
        while left:
            await connection.send_packed_command([left[:_PIECE_BYTES]], check_health=False)
            left = left[_PIECE_BYTES:]
        tail = b"\r\n" + b"".join(map(_as_word, words[3:]))
        await connection.send_packed_command([tail], check_health=False)
        return await connection.read_response()
    except BaseException:
        await connection.disconnect(nowait=True)  # half a command must not stay on it
        raise
    finally:
        await pool.release(connection)


def _as_word(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)


def _prepare(name: str, server_major: int, database: int) -> _Loaded:
    text = script_text(name, server_major=server_major, database=database)
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return _Loaded(text, digest)
