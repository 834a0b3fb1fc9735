"""What `lanefleet submit` is given: text, JSON, a file, or whatever comes from another command."""

from __future__ import annotations

import io
import mimetypes
import sys
from pathlib import Path
from typing import BinaryIO

import typer

_LONGEST, _MOST_WORDS = 255, 4
"""Of a name that somebody types; longer is a text."""
_PATH_BEGINS = ("/", "./", "../", "~/")

Given = str | Path | BinaryIO
"""Text, which may be JSON, or a file."""


def read_given(value: str | None, file: Path | None, as_text: bool) -> Given:
    """The input of a job; raises BadParameter with what to do instead."""
    if (value is None) == (file is None):
        raise typer.BadParameter("give VALUE, or a file by --file")
    if file is not None:
        return _checked(file)
    text = value or ""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise typer.BadParameter(
            "VALUE is not UTF-8; give it as a file by --file, or by - from another command"
        ) from exc
    if as_text:
        return text
    if text == "-":
        return _from_stdin()
    if _is_file(text):
        return Path(text)
    if _means_a_file(text):
        raise typer.BadParameter(
            f"there is no file {text!r}; if it is text and no file's name, say so with --text"
        )
    return text


def _checked(file: Path) -> Path:
    try:
        file.open("rb").close()
    except OSError as exc:
        raise typer.BadParameter(f"{exc.strerror}: {str(file)!r}") from exc
    return file


def _from_stdin() -> Given:
    """Text where it is that, else bytes, as of a picture."""
    content = sys.stdin.buffer.read()
    try:
        return content.decode()
    except UnicodeDecodeError:
        return io.BytesIO(content)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name
        return False


def _means_a_file(text: str) -> bool:
    """Whether it reads like a file's name rather than like a text: it would be embedded itself."""
    if text.startswith("data:") or "://" in text or "\0" in text or len(text) > _LONGEST:
        return False
    if len(text.splitlines()) > 1 or len(text.split()) > _MOST_WORDS:
        return False
    if text.startswith(_PATH_BEGINS) or Path(text).suffix.lower() in mimetypes.types_map:
        return True
    return " " not in text and "/" in text and Path(text.rpartition("/")[0]).is_dir()
