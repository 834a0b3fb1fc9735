"""Loads the Lua scripts once and runs them by digest.

For two reasons: Redis 7 refuses a script at maxmemory unless its first line says `allow-oom`, and
Redis 6.2 does not know that line. And a server that restarted or failed over has no scripts
loaded.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import hiredis
import redis.asyncio
from redis import Redis
from redis.exceptions import NoScriptError, ResponseError

from common.redis.connect import database_of
from common.redis.refusals import tell_refusal
from common.redis.script_text import script_text

_CALLS_AT_A_TIME = 12
_PIECE_BYTES = 1024 * 1024

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


@lru_cache(maxsize=256)
def _prepare(name: str, server_major: int, database: int) -> _Loaded:
    """Kept for the process: making one takes 5 ms, and everybody who publishes has scripts of its
    own.
    """
    text = script_text(name, server_major=server_major, database=database)
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return _Loaded(text, digest)
