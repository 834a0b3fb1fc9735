"""Adds a model to a catalog file as text, so that its comments and its order stay as they are."""

from __future__ import annotations

import os
import re
from pathlib import Path

from common.catalog import load_catalog
from common.errors import ConfigurationError

__all__ = ("add_entry",)

_INDENT = "  "


def add_entry(path: Path, name: str, entry: str) -> None:
    """Add it at the end of `models:`; a file that is not there is made.

    entry: its name at the beginning of a line, its keys indented by two. The file changes whole
    or not at all. Raises ConfigurationError.
    """
    path = path.resolve()  # not the link to it
    before = _read(path)
    if before.strip() and name in {**load_catalog(path).models, **load_catalog(path).aliases}:
        raise ConfigurationError(f"{path}: there is a {name!r} already; choose another name")
    after = (
        _with_entry(before, entry) if before.strip() else f"models:\n{_indented(entry, _INDENT)}"
    )
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(after, encoding="utf-8", newline="")
        if path.exists():
            scratch.chmod(path.stat().st_mode & 0o777)
        try:
            load_catalog(scratch)
        except ConfigurationError as exc:
            raise ConfigurationError(
                f"{path} has a form to which no entry can be added by a program ({exc}); add it "
                f"yourself:\n{_indented(entry, _INDENT)}"
            ) from exc
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _read(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open(encoding="utf-8", newline="") as stream:
        return stream.read()


def _with_entry(text: str, entry: str) -> str:
    """Behind the last line of the block `models:`, in the indentation of its first key."""
    end_of_line = "\r\n" if "\r\n" in text else "\n"
    lines = text.split(end_of_line)
    begin = next((at for at, line in enumerate(lines) if re.match(r"models:\s*(#|$)", line)), None)
    if begin is None:
        return f"{text}{end_of_line}models: {{}}"  # refused by who reads it
    last, indent = begin, ""
    for at in range(begin + 1, len(lines)):
        line = lines[at]
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not line[0].isspace():
            break
        indent = indent or line[: len(line) - len(line.lstrip())]
        last = at
    added = _indented(entry, indent or _INDENT).rstrip("\n").split("\n")
    return end_of_line.join([*lines[: last + 1], "", *added, *lines[last + 1 :]])


def _indented(entry: str, indent: str) -> str:
    return "".join(f"{indent}{line}" for line in entry.splitlines(keepends=True))
