"""`lanefleet acl`: the users of the queue's Redis, as a file for its `aclfile`."""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from api.cli.acl_roles import ROLES
from api.cli.options import JsonFlag
from common.errors import ConfigurationError

err = Console(stderr=True)

USERS = ("admin", *(role.name for role in ROLES))
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HOWS = (
    "ROLE=#SHA256 (64 hexadecimal digits), ROLE=@FILE (a file with the password), ROLE=nopass "
    "(a private network), or ROLE=off"
)


def acl_text(lanes: Iterable[str], words: dict[str, str]) -> str:
    """The file: one line a user; words are each user's password as Redis writes it."""
    names = sorted(lanes)
    lines = ["user default off"]
    for name, rules in (("admin", ["~*", "&*", "+@all"]), *_rules(names)):
        word = words[name]
        state = ["off"] if word == "off" else ["on", word]
        lines.append(" ".join(("user", name, *state, *rules)))
    return "\n".join(lines) + "\n"


def _rules(lanes: Sequence[str]) -> list[tuple[str, list[str]]]:
    return [(role.name, role.rules(lanes)) for role in ROLES]


def passwords(given: Sequence[str], otherwise: Callable[[str], str]) -> dict[str, str]:
    """Each user's password as the file has it; raises ConfigurationError for a bad one."""
    found: dict[str, str] = {}
    for text in given:
        name, sign, how = text.partition("=")
        if not sign or name not in USERS:
            known = ", ".join(USERS)
            raise ConfigurationError(
                f"--password {text.partition('=')[0]!r}: write {_HOWS}; roles are {known}"
            )
        if name in found:
            raise ConfigurationError(f"--password {name} is given twice; give it once")
        found[name] = _password(name, how)
    return {name: found[name] if name in found else otherwise(name) for name in USERS}


def _password(name: str, how: str) -> str:
    if how in ("nopass", "off"):
        return how
    if how.startswith("#") and _DIGEST.fullmatch(how[1:]):
        return how
    if how.startswith("@"):
        return _hashed(_read(name, Path(how[1:])))
    # The text itself may be a password, so it is not repeated.
    raise ConfigurationError(f"--password {name}: write {_HOWS}; a password itself is not taken")


def _read(name: str, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not UTF-8"
        raise ConfigurationError(f"--password {name}: cannot read {path}: {reason}") from exc
    if not text or "\n" in text:
        raise ConfigurationError(
            f"--password {name}: {path} must have one line, the password, and has "
            f"{'several' if text else 'none'}"
        )
    return text


def _hashed(password: str) -> str:
    return "#" + sha256(password.encode()).hexdigest()


def acl(
    password: Annotated[
        list[str] | None,
        typer.Option(help=f"A role's password: {_HOWS}. Roles without one get a random one."),
    ] = None,
    placeholders: Annotated[
        bool,
        typer.Option("--placeholders", help="Passwords to replace by hand, as change-me-api."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; else printed.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the ACL file of the queue's Redis: one user per role, for the catalog's lanes.

    Random passwords are told once, on the standard error; the file has their hashes. Load it with
    `aclfile FILE` in redis.conf, and again with ACL LOAD once lanes have changed.
    """
    from api.cli.main import settings_for_checkout
    from common.catalog import load_catalog

    made: dict[str, str] = {}

    def otherwise(name: str) -> str:
        if placeholders:
            return f">change-me-{name}"
        made[name] = secrets.token_urlsafe(24)
        return _hashed(made[name])

    settings = settings_for_checkout()
    lanes = list(load_catalog(settings.catalog).subset(settings.models))
    text = acl_text(lanes, passwords(password or (), otherwise))
    if output is not None:
        _write(output, text)
    if as_json:
        said = {"lanes": sorted(lanes), "passwords": made, "acl": text}
        sys.stdout.write(json.dumps(said) + "\n")
        return
    if output is None:
        sys.stdout.write(text)
    for name, word in made.items():
        err.print(f"{name}: {word}", highlight=False, markup=False)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise ConfigurationError(f"--output: cannot write {path}: {exc.strerror}") from exc
