"""`lanefleet keys`: make API keys, list, rotate and revoke them, and give tenants limits.

It works on Redis itself: whoever may write there may do everything anyway, and
the first key could not be made through an API that asks for one.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from api.cli.options import JsonFlag
from api.tenants.api_keys import PREFIX, SCOPES, KeyRecord, Keyring, split_key
from common.errors import ConfigurationError
from common.redis.connect import connect
from common.redis.embedded_server import obtain_redis
from common.settings import Settings, load_settings

keys = typer.Typer(
    help="Make API keys, list, rotate and revoke them; give tenants limits.", no_args_is_help=True
)
out = Console()

_MOST = 1_000_000_000
_LONGEST_SECONDS = 36_525 * 86_400
_MOST_DIGITS = 12
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def id_of(given: str) -> str:
    """The key's id, also of a whole key, as is at hand where one has leaked; never shows one."""
    text = given.strip()
    if not text.startswith(PREFIX):
        return text
    parts = split_key(text.encode("utf-8", "replace"))
    if parts is None:
        raise typer.BadParameter("give the key's id, as `lanefleet keys list` shows it")
    return parts[0]


KeyId = Annotated[
    str, typer.Argument(help="The key's id; see `lanefleet keys list`.", callback=id_of)
]
Tenant = Annotated[str, typer.Argument(help="The tenant's name.")]


@contextmanager
def _keyring() -> Iterator[tuple[Keyring, Settings]]:
    settings = load_settings()
    redis = obtain_redis(settings)
    try:
        with connect(redis.url, settings) as client:
            yield Keyring(client), settings
    finally:
        redis.stop()


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="What people call it, such as who has it.")],
    tenant: Annotated[str, typer.Option(help="Whose jobs it sends and sees.")],
    scopes: Annotated[
        str, typer.Option(help=f"Comma-separated, of {', '.join(sorted(SCOPES))}.")
    ] = "submit,read",
    expires: Annotated[
        str | None, typer.Option(help="After this long, such as 90d or 12h; left out, never.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key and show it, this once."""
    wanted = frozenset(scope.strip() for scope in scopes.split(",") if scope.strip())
    expires_at = None if expires is None else time.time() + seconds_of(expires)
    with _keyring() as (ring, _):
        record, text = ring.create(name, tenant, wanted, expires_at=expires_at)
    _show_new(record, text, as_json)


@keys.command("list")
def list_keys(as_json: JsonFlag = False) -> None:
    """List every key, oldest first; what opens with it is not kept."""
    with _keyring() as (ring, _):
        found = [_about(record, used) for record, used in ring.all()]
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    table = Table("id", "name", "tenant", "scopes", "created", "expires", "last used", "state")
    for one in found:
        table.add_row(
            *(one[field] for field in ("id", "name", "tenant")),
            ",".join(one["scopes"]),
            *(one[field] or "never" for field in ("created_at", "expires_at", "last_used_at")),
            one["state"],
        )
    out.print(table)


@keys.command()
def revoke(key_id: KeyId) -> None:
    """Let a key open nothing any more, within LANEFLEET_KEY_CACHE_SECONDS."""
    with _keyring() as (ring, settings):
        record = ring.revoke(key_id)
    out.print(
        f"revoked {record.id} ({record.name}); it dies everywhere within "
        f"{settings.key_cache_seconds:g} s",
        highlight=False,
        markup=False,
    )


@keys.command()
def rotate(
    key_id: KeyId,
    grace: Annotated[str, typer.Option(help="How long the old one stays valid beside it.")] = "24h",
    as_json: JsonFlag = False,
) -> None:
    """Make a second key that opens the same; the first one expires after the grace."""
    with _keyring() as (ring, _):
        record, text = ring.rotate(key_id, seconds_of(grace))
    _show_new(record, text, as_json)


@keys.command()
def forget(key_id: KeyId) -> None:
    """Drop a revoked or expired key from the list."""
    with _keyring() as (ring, _):
        ring.forget(key_id)
    out.print(f"forgotten: {key_id}", highlight=False, markup=False)


@keys.command()
def limit(
    tenant: Tenant,
    jobs_per_second: Annotated[
        float | None, typer.Option(min=0, max=_MOST, help="0 is no limit.")
    ] = None,
    burst: Annotated[
        int | None, typer.Option(min=1, max=_MOST, help="Jobs it may send at once.")
    ] = None,
    max_in_flight: Annotated[
        int | None, typer.Option(min=0, max=_MOST, help="Jobs waiting or running; 0 is no limit.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Back to the settings' limits.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Give a tenant limits of its own, or show what it has."""
    given = {
        "jobs_per_second": jobs_per_second,
        "burst": burst,
        "max_in_flight": max_in_flight,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    with _keyring() as (ring, settings):
        if chosen or clear:
            ring.set_limits(tenant, chosen)
        limits = ring.limits(tenant, settings)
    found = {name: getattr(limits, name) for name in given}
    if as_json:
        sys.stdout.write(json.dumps({"tenant": tenant, **found}) + "\n")
        return
    for name, value in found.items():
        out.print(f"{name}: {value or 'no limit'}", highlight=False)


def seconds_of(text: str) -> float:
    """`90d`, `12h`, `30m` or `45s` in seconds; raises ConfigurationError."""
    found = re.fullmatch(r"(\d+)([smhd])", text.strip())
    if not found:
        raise ConfigurationError(f"{text[:40]!r} is no span of time; write 45s, 30m, 12h or 90d")
    seconds = int(found[1][:_MOST_DIGITS]) * _UNITS[found[2]]
    if len(found[1]) > _MOST_DIGITS or seconds > _LONGEST_SECONDS:
        raise ConfigurationError(f"{text[:40]!r} is longer than a hundred years; write 90d or such")
    return seconds


def _about(record: KeyRecord, used_at: float | None) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "tenant": record.tenant,
        "scopes": list(record.scopes),
        "created_at": _moment(record.created_at),
        "expires_at": _moment(record.expires_at),
        "last_used_at": _moment(used_at),
        "state": record.dead(time.time()) or "valid",
    }


def _moment(at: float | None) -> str | None:
    if at is None:
        return None
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # one such key must not hide the others
        return "after the year 9999"


def _show_new(record: KeyRecord, text: str, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({**_about(record, None), "key": text}) + "\n")
        return
    # On its own line and plain, to be copied or piped; nobody can show it again.
    sys.stdout.write(text + "\n")
    Console(stderr=True).print(
        f"key {record.id} of {record.tenant}: keep it now, it is not shown again",
        highlight=False,
        markup=False,
    )
