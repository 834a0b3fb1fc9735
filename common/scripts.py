"""Load the Lua transitions once and run them by digest.

Two facts shape this file. Redis 7 refuses a script at maxmemory unless its
first line says `allow-oom`, and Redis 6.2 does not know that line. And a
server that restarted or failed over has forgotten every script.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import redis.asyncio
from redis import Redis
from redis.exceptions import NoScriptError

REFUSED_WHEN_FULL = frozenset({"enqueue"})
"""Scripts that take new work in; the others must run so that a full server drains."""

# On Redis 6.2 the memory check is skipped once a script has written, and DEL is
# never refused; so a first, harmless write stands for the flag of Redis 7.
_FLAGGED = "#!lua flags=allow-oom\n"
_WRITE_FIRST = "redis.call('DEL', 'lf:none')\n"

Args = Sequence[str | bytes | int | float]


@dataclass(frozen=True, slots=True)
class _Loaded:
    text: str
    digest: str


def _read(name: str) -> str:
    return files("common").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def script_text(name: str, *, server_major: int) -> str:
    """The whole script as the server takes it: header, shared part, transition."""
    header = ""
    if name not in REFUSED_WHEN_FULL:
        header = _FLAGGED if server_major >= 7 else _WRITE_FIRST
    return header + _read("shared") + _read(name)


def _major(info: dict[str, Any]) -> int:
    return int(str(info.get("redis_version", "7")).split(".", 1)[0])


class Scripts:
    """The transitions over one blocking client. Safe to share between threads."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._loaded: dict[str, _Loaded] = {}
        self._server_major: int | None = None

    def run(self, name: str, keys: Sequence[str], args: Args) -> Any:
        """Run one transition; raises what redis-py raises."""
        script = self._loaded.get(name) or self._load(name)
        try:
            return self._client.evalsha(script.digest, len(keys), *keys, *args)
        except NoScriptError:
            return self._client.eval(script.text, len(keys), *keys, *args)

    def _load(self, name: str) -> _Loaded:
        if self._server_major is None:
            self._server_major = _major(self._client.info("server"))
        script = _prepare(name, self._server_major)
        self._loaded[name] = script
        return script


class AsyncScripts:
    """The transitions over one asyncio client."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._loaded: dict[str, _Loaded] = {}
        self._server_major: int | None = None

    async def run(self, name: str, keys: Sequence[str], args: Args) -> Any:
        """Run one transition; raises what redis-py raises."""
        script = self._loaded.get(name) or await self._load(name)
        try:
            return await self._client.evalsha(script.digest, len(keys), *keys, *args)
        except NoScriptError:
            return await self._client.eval(script.text, len(keys), *keys, *args)

    async def _load(self, name: str) -> _Loaded:
        if self._server_major is None:
            self._server_major = _major(await self._client.info("server"))
        script = _prepare(name, self._server_major)
        self._loaded[name] = script
        return script


def _prepare(name: str, server_major: int) -> _Loaded:
    text = script_text(name, server_major=server_major)
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return _Loaded(text, digest)
