"""Where a Redis is: what people write for it, in one form for every library that connects.

redis-py, kombu and Celery's backend read URLs each in a way of its own: a database in the
query is one to the first alone, a socket is `unix://` to it and `redis+socket://` to the others,
and a word that none of them understands means localhost to some and a traceback to the rest. So
what was written is read here, once, with the settings; what cannot be meant is refused there with
a sentence, which never repeats what may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

Kind = Literal["redis", "rediss", "unix", "sentinel"]

_KINDS: dict[str, Kind] = {
    "redis": "redis",
    "valkey": "redis",
    "rediss": "rediss",
    "valkeys": "rediss",
    "unix": "unix",
    "redis+unix": "unix",
    "redis+socket": "unix",
    "valkey+socket": "unix",
    "sentinel": "sentinel",
}
_SHOWN = "redis, rediss, valkey, valkeys, unix, redis+socket or sentinel"
_BARE = re.compile(r"(?:[^\s/?#]*@)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):\d+(?:[/?].*)?")
"""`host:port`, with a login before it and a database behind it where there are such."""
_DEFAULT_PORTS: dict[str, int] = {"sentinel": 26379}
_TLS_OPTIONS = frozenset(
    {"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}
)
_DATABASES = ("db", "virtual_host")
_ENCODE = "a password with one of / ? # in it must be percent-encoded"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """One server, or the Sentinels that know it, and how to log in; its text is a URL."""

    kind: Kind
    nodes: tuple[tuple[str, int], ...] = ()
    """Host and port; several of Sentinels, none of a socket."""
    path: str = ""
    """Of a socket."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    tls: Mapping[str, str] = field(default_factory=dict)
    """What the URL says of TLS, `ssl_ca_certs` and others; for a Sentinel, of its master's."""

    @classmethod
    def parse(cls, text: str) -> RedisAddress:
        """Read what somebody wrote; raises ValueError with a sentence."""
        text = text.strip()
        if any(mark.isspace() for mark in text):
            raise ValueError("a Redis URL has no spaces in it")
        kind, rests = _parts_of(text)
        parts = [_split(rest) for rest in rests]
        if kind == "redis" and parts[0].path.count("/") and not parts[0].hostname:
            kind = _kind_of_path(parts[0])
        if kind == "unix" and parts[0].hostname:
            raise ValueError("a socket's path begins with /: write unix:///path/to/redis.sock")
        login = next((one for one in parts if one.password or one.username), parts[0])
        options = {name: value for one in parts for name, value in parse_qsl(one.query)}
        tls = {name: options.pop(name) for name in _TLS_OPTIONS & options.keys()}
        if kind in ("redis", "unix") and tls:
            raise ValueError(f"{min(tls)} is for rediss:// only, where TLS is spoken")
        return cls(
            kind,
            () if kind == "unix" else tuple(_node(one, kind) for one in parts),
            unquote(parts[0].path) if kind == "unix" else "",
            unquote(login.username) if login.username else None,
            unquote(login.password) if login.password else None,
            _database(kind, [one.path for one in parts], options),
            _checked_tls({"ssl_cert_reqs": "required", **tls} if kind == "rediss" else tls),
        )

    @property
    def url(self) -> str:
        """In the form that redis-py reads, or ours for Sentinels."""
        query = urlencode(self.tls)
        if self.kind == "unix":
            return f"unix://{self._login}{quote(self.path)}?db={self.database}"
        tail = f"/{self.database}" + (f"?{query}" if query else "")
        return ";".join(
            f"{self.kind}://{self._login}{_bracketed(host)}:{port}{tail}"
            for host, port in self.nodes
        )

    @property
    def celery_url(self) -> str:
        """In the form that kombu and Celery's backend read; TLS of a master is told them apart."""
        if self.kind == "unix":
            path = quote(self.path)
            return f"redis+socket://{self._login}{path}?virtual_host={self.database}"
        if self.kind == "sentinel":
            return ";".join(
                f"sentinel://{self._login}{_bracketed(host)}:{port}/{self.database}"
                for host, port in self.nodes
            )
        return self.url

    @property
    def login(self) -> dict[str, Any]:
        """User, password and database, as redis-py takes them by name."""
        given = {"username": self.username, "password": self.password, "db": self.database}
        return {name: value for name, value in given.items() if value}

    @property
    def _login(self) -> str:
        if self.password is None and self.username is None:
            return ""
        secret = "" if self.password is None else ":" + quote(self.password, safe="")
        return quote(self.username or "", safe="") + secret + "@"

    def __str__(self) -> str:
        """Without who logs in: for people and logs."""
        if self.kind == "unix":
            return f"unix://{self.path}"
        places = ",".join(f"{_bracketed(host)}:{port}" for host, port in self.nodes)
        return f"{self.kind}://{places}/{self.database}"


def _parts_of(text: str) -> tuple[Kind, list[str]]:
    """Which kind it is, and what follows its scheme: once for each Sentinel."""
    if text.startswith("/"):
        return "unix", [text]
    scheme, found, rest = text.partition("://")
    if not found:
        if not _BARE.fullmatch(text):
            raise ValueError(
                "this is no Redis URL; write redis://host:6379/0, host:6379 or unix:///path"
            )
        return "redis", [text]
    kind = _KINDS.get(scheme.lower())
    if kind is None:
        shown = scheme if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]{0,20}", scheme) else "this"
        raise ValueError(f"{shown}:// is no kind of Redis; write {_SHOWN}")
    if kind != "sentinel":
        return kind, [rest]
    return kind, [part.partition("://")[2] or part for part in rest.split(";") if part]


def _split(rest: str) -> SplitResult:
    """By the rules of URLs; raises ValueError with a sentence for what breaks them."""
    try:
        parts = urlsplit("//" + rest if not rest.startswith("/") else rest)
        port = parts.port
    except ValueError as exc:
        text = "a host in [brackets] is no IPv6 address" if "IPv6" in str(exc) else ""
        said = text or f"the port must be a number from 1 to 65535; {_ENCODE}"
        raise ValueError(said) from None
    if port == 0:
        raise ValueError("the port must be a number from 1 to 65535")
    if parts.fragment or rest.endswith("#"):
        raise ValueError(f"a Redis URL has no part after #; {_ENCODE}")
    if "@" in parts.path:
        raise ValueError(f"the host follows the last @; {_ENCODE}")
    return parts


def _kind_of_path(parts: SplitResult) -> Kind:
    """`redis:///0` is a database of this machine's; `redis:///run/redis.sock` is a socket."""
    database = parts.path.strip("/")
    return "redis" if not database or database.isdigit() or parts.port else "unix"


def _node(parts: SplitResult, kind: Kind) -> tuple[str, int]:
    host = unquote(parts.hostname or "") or "localhost"
    return host, parts.port or _DEFAULT_PORTS.get(kind, 6379)


def _database(kind: Kind, paths: list[str], options: dict[str, str]) -> int:
    """Which database is named: by the path, or for a socket by the query."""
    named = [options.pop(name) for name in _DATABASES if name in options]
    if options:
        raise ValueError(
            f"a Redis URL has no option {next(iter(options))!r}; it may have db"
            f" and, with rediss:// or sentinel://, {', '.join(sorted(_TLS_OPTIONS))}"
        )
    if kind == "unix":
        if not paths[0].strip("/"):
            raise ValueError("a socket has a path: write unix:///path/to/redis.sock")
    else:
        named += [path.strip("/") for path in paths if path.strip("/")]
    if any(not name.isascii() or not name.isdigit() for name in named):
        raise ValueError("the database must be a number, as in redis://host:6379/0")
    if len(set(map(int, named))) > 1:
        raise ValueError("the URL names two databases; name one")
    return int(named[0]) if named else 0


def _checked_tls(tls: dict[str, str]) -> dict[str, str]:
    if tls.get("ssl_cert_reqs", "required") not in ("required", "optional", "none"):
        raise ValueError("ssl_cert_reqs must be required, optional or none")
    if tls.get("ssl_check_hostname", "true").lower() not in ("true", "false"):
        raise ValueError("ssl_check_hostname must be true or false")
    return dict(sorted(tls.items()))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else quote(host)
