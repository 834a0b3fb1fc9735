"""The requests of `/v1/files` and `/v1/batches` as values, for both clients."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from .calls import Call

__all__ = ("ENDED", "name_of")

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
"""The states of a batch that nothing leaves."""
_UPLOAD_SECONDS = 600.0


def name_of(file: str | os.PathLike[str] | BinaryIO) -> str:
    """What a file is called."""
    if isinstance(file, str | os.PathLike):
        return Path(file).name
    name = getattr(file, "name", None)
    return Path(name).name if isinstance(name, str) else "input.jsonl"


def create_file(content: BinaryIO, name: str, purpose: str, expires_seconds: int | None) -> Call:
    """Upload a file that is open; httpx reads it in pieces."""
    form = {"purpose": purpose}
    if expires_seconds is not None:
        form["expires_after[anchor]"] = "created_at"
        form["expires_after[seconds]"] = str(expires_seconds)
    options = {"data": form, "files": {"file": (name, content)}}
    return Call("POST", "/v1/files", options, repeatable=False, wait=_UPLOAD_SECONDS)


def list_files(limit: int, after: str | None) -> Call:
    """A page of files."""
    return Call("GET", "/v1/files", {"params": _page(limit, after)})


def get_file(file: str) -> Call:
    """One file."""
    return Call("GET", _path("files", file))


def get_file_content(file: str) -> Call:
    """A file's bytes."""
    return Call("GET", f"{_path('files', file)}/content", lasting=True)


def delete_file(file: str) -> Call:
    """Delete a file; what is gone already is a 404 the second time."""
    return Call("DELETE", _path("files", file), repeatable=False)


def create_batch(fields: Mapping[str, Any]) -> Call:
    """Run the lines of a file."""
    body = {name: value for name, value in fields.items() if value is not None}
    return Call("POST", "/v1/batches", {"json": body}, repeatable=False)


def list_batches(limit: int, after: str | None) -> Call:
    """A page of batches."""
    return Call("GET", "/v1/batches", {"params": _page(limit, after)})


def get_batch(batch: str) -> Call:
    """One batch."""
    return Call("GET", _path("batches", batch))


def cancel_batch(batch: str) -> Call:
    """End a batch."""
    return Call("POST", f"{_path('batches', batch)}/cancel")


def _page(limit: int, after: str | None) -> dict[str, Any]:
    return {"limit": limit} if after is None else {"limit": limit, "after": after}


def _path(kind: str, name: str) -> str:
    if not name:  # would be the path of the list
        raise ValueError("an id is not empty")
    return f"/v1/{kind}/{quote(name, safe='')}"
