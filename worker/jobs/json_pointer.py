"""A part of a JSON value, by a JSON Pointer (RFC 6901)."""

from __future__ import annotations

import re
from typing import Any

_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")


def resolve(value: Any, pointer: str) -> Any:
    """The part that the pointer names; the empty pointer names all of it.

    Raises ValueError for what is no pointer, LookupError where the value has no such part.
    """
    if not pointer:
        return value
    if not pointer.startswith("/"):
        raise ValueError(f"{pointer!r} is no JSON Pointer: it must be empty or begin with '/'")
    for token in pointer[1:].split("/"):
        value = _member(value, token.replace("~1", "/").replace("~0", "~"), pointer)
    return value


def _member(value: Any, name: str, pointer: str) -> Any:
    if isinstance(value, dict) and name in value:
        return value[name]
    if isinstance(value, list) and _INDEX.fullmatch(name) and int(name) < len(value):
        return value[int(name)]
    raise LookupError(f"nothing lies at {pointer!r}: there is no {name!r}")
