"""Puts the text of a Lua script together from its file and what it includes.

`-- @include a, b` puts these files in front. `-- @rarely c, d` does so too, but inside a function
that runs when one of their functions is first called: a server runs a script from its first line,
so each function that is defined costs every call about as much as one command of Redis does, and
most calls need a third of them. What files under `@rarely` define may be called from outside, not
read or changed.
"""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

from common.errors import ConfigurationError
from common.redis.keys import NOTHING, channel_scope

REFUSED_WHEN_FULL = frozenset({"enqueue", "claim_idempotency_key", "add_batch"})
"""Scripts that accept new work; the others must run so that a full server drains."""

# On Redis 6.2 the memory check is skipped once a script has written, and DEL is
# never refused; so a first, harmless write replaces the flag of Redis 7.
_FLAGGED = "#!lua flags=allow-oom\n"
_WRITE_FIRST = f"redis.call('DEL', '{NOTHING}')\n"

_LUA: Traversable = files("common").joinpath("redis", "lua")
_SCOPE = "local SCOPE = ''"
"""The line of include/keys.lua that says what channels end in: no script can ask its database."""
_FOLDERS = ("transitions", "queries", "registry")

_INCLUDE = re.compile(r"^-- @include (.+)$", re.MULTILINE)
_RARELY = re.compile(r"^-- @rarely (.+)$", re.MULTILINE)
_FUNCTION = re.compile(r"^local function (\w+)", re.MULTILINE)
_STRING_OR_COMMENT = re.compile(r"'(?:[^'\\]|\\.)*'|--.*")


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
    """The names on its `-- @include` and `-- @rarely` lines."""
    return _listed(_INCLUDE, text) + _listed(_RARELY, text)


def script_text(name: str, *, server_major: int, database: int = 0) -> str:
    """The whole script as a server takes it: header, what it includes, transition.

    Raises ConfigurationError, with the chain, for an unknown name or a cycle.
    """
    header = ""
    if name not in REFUSED_WHEN_FULL:
        header = _FLAGGED if server_major >= 7 else _WRITE_FIRST
    text = _Assembly(name, source_of(name)).text()
    return header + text.replace(_SCOPE, f"local SCOPE = '{channel_scope(database)}'")


def _lines(kind: re.Pattern[str], text: str) -> list[list[str]]:
    return [[name.strip() for name in line.split(",")] for line in kind.findall(text)]


def _listed(kind: re.Pattern[str], text: str) -> list[str]:
    return [name for line in _lines(kind, text) for name in line]


class _Assembly:
    """One script and the files that it includes."""

    def __init__(self, name: str, source: str) -> None:
        self._name = name
        self._source = source
        self._parts: dict[str, str] = {}
        self._check(source, (name,))
        self._always: set[str] = set()
        self._reach(source, self._always, rarely=False)
        self._promote()

    def text(self) -> str:
        """Each file once, after what it needs, and the script last."""
        out: dict[str, str] = {}
        self._put(self._source, out)
        return "".join(out.values()) + self._source

    def _check(self, text: str, chain: tuple[str, ...]) -> None:
        """Read all files; raises ConfigurationError for one that is missing and for a cycle."""
        for name in included_by(text):
            path = " -> ".join((*chain, name))
            if name in chain:
                raise ConfigurationError(f"Lua files include each other: {path}")
            if name not in self._parts:
                file = _LUA.joinpath("include", f"{name}.lua")
                if not file.is_file():
                    raise ConfigurationError(f"there is no Lua file to include: {path}")
                self._parts[name] = file.read_text(encoding="utf-8")
            self._check(self._parts[name], (*chain, name))

    def _reach(self, text: str, found: set[str], *, rarely: bool) -> None:
        """Add what a text needs: always, or also what it needs rarely."""
        for name in included_by(text) if rarely else _listed(_INCLUDE, text):
            if name not in found:
                found.add(name)
                self._reach(self._parts[name], found, rarely=rarely)

    def _needed(self, rare: list[str]) -> set[str]:
        """All that a line of rarely needed files takes, less what is always there."""
        needed = set(rare)
        for name in rare:
            self._reach(self._parts[name], needed, rarely=True)
        return needed - self._always

    def _promote(self) -> None:
        """What two such lines would both bring is always there: it may keep something."""
        seen: set[str] = set()
        texts = (self._source, *(self._parts[name] for name in sorted(self._always)))
        for rare in (line for text in texts for line in _lines(_RARELY, text)):
            needed = self._needed(rare)
            for name in needed & seen:
                self._always.add(name)
                self._reach(self._parts[name], self._always, rarely=False)
            seen |= needed

    def _put(self, text: str, out: dict[str, str]) -> None:
        for name in _listed(_INCLUDE, text):
            if name not in out:
                self._put(self._parts[name], out)
                out[name] = self._parts[name]
        for rare in _lines(_RARELY, text):
            inside = self._needed(rare)
            group: dict[str, str] = {}
            for name in rare:
                self._put_group(name, inside, group, out)
            if group:
                out["rarely " + ", ".join(rare)] = self._wrapped(group)

    def _put_group(
        self, name: str, inside: set[str], group: dict[str, str], out: dict[str, str]
    ) -> None:
        """Add a file and its needs to the group, or to the script where it is always there."""
        if name in group or name in out:
            return
        part = self._parts[name]
        for needed in included_by(part):
            self._put_group(needed, inside, group, out)
        (group if name in inside else out)[name] = part

    def _wrapped(self, group: dict[str, str]) -> str:
        """The group as a function, and one for each of its functions that is called outside."""
        others = [self._source, *(part for name, part in self._parts.items() if name not in group)]
        words = {
            word for part in others for word in re.findall(r"\w+", _STRING_OR_COMMENT.sub("", part))
        }
        offered = [one for part in group.values() for one in _FUNCTION.findall(part)]
        called = [name for name in offered if name in words]
        table = f"rare_{next(iter(group))}"
        body = "".join(group.values())
        fields = ", ".join(f"{name} = {name}" for name in called)
        return (
            f"local {table}\nlocal function load_{table}()\n{body}{table} = {{ {fields} }}\n"
            f"return {table}\nend\n"
            + "".join(
                f"local function {name}(...) return ({table} or load_{table}()).{name}(...) end\n"
                for name in called
            )
        )
