"""Seals folders with a key of this machine's state folder: code that we made, and nobody else.

Compiled networks are machine code. Whoever can write to the state folder, but not read the key,
cannot have one run: what is opened is a private copy, of which the digest was made while it was
copied.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from common.errors import FleetError

__all__ = ("Broken", "copy_sealed", "read_sealed", "seal")

ABOUT, SEAL = "about.json", "seal"
_KEY_BYTES = 32
_CHUNK_BYTES = 1 << 20


class Broken(FleetError):
    """It is not what was sealed here; the message says what does not fit."""

    code = "seal_broken"


def seal(folder: Path, about: dict[str, Any], key_file: Path) -> None:
    """Write what `about` says and a digest of each file; call it with all files in place."""
    folder.chmod(0o700)  # whatever the umask says: nobody else's folder is read
    files = {one.name: _digest(one) for one in sorted(folder.iterdir())}
    content = json.dumps({**about, "files": files}, sort_keys=True).encode()
    (folder / ABOUT).write_bytes(content)
    (folder / SEAL).write_text(_code(_key(key_file), content), encoding="ascii")


def read_sealed(folder: Path, key_file: Path) -> dict[str, Any]:
    """What was sealed with it. Raises Broken."""
    for place in (folder, folder.parent):
        _refuse_writable(place)
    try:
        content = (folder / ABOUT).read_bytes()
        said = (folder / SEAL).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as exc:
        raise Broken(f"{folder} has no seal ({exc})") from exc
    if not key_file.exists():
        raise Broken(f"the key {key_file}, with which {folder} was sealed, is gone")
    if not hmac.compare_digest(_code(_key(key_file), content), said):
        raise Broken(f"{folder} was changed, or sealed with another key than {key_file}")
    about: dict[str, Any] = json.loads(content)
    return about


def _refuse_writable(folder: Path) -> None:
    """Raise Broken where others may exchange what is in it."""
    try:
        found = folder.stat()
    except OSError as exc:
        raise Broken(f"{folder} cannot be read ({exc})") from exc
    if found.st_mode & 0o022 or found.st_uid != os.geteuid():
        raise Broken(
            f"{folder} may be written by others; see who changed it, then chmod go-w it, or remove "
            "it and compile anew"
        )


def copy_sealed(folder: Path, name: str, about: dict[str, Any], target: Path) -> None:
    """Copy one of its files to `target`, a path of our own. Raises Broken where it was changed."""
    digest = hashlib.sha256()
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as copy, (folder / name).open("rb") as source:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            copy.write(chunk)
    if digest.hexdigest() != about["files"].get(name):
        target.unlink()
        raise Broken(f"{folder / name} was changed since it was made")


def _key(path: Path) -> bytes:
    """The key, made at first use; refused where others may read or write it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        _make_key(path)
    found = path.stat()
    if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.geteuid():
        raise Broken(
            f"the key {path} may be read by others; see who changed it, remove it, and compile anew"
        )
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise Broken(f"the key {path} has {len(key)} bytes instead of {_KEY_BYTES}; remove it")
    return key


def _make_key(path: Path) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(_KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(scratch, path)  # fails where another process was first, whose key counts
    except FileExistsError:
        pass
    finally:
        scratch.unlink()


def _code(key: bytes, content: bytes) -> str:
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
