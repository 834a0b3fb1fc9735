"""What rows are read from: JSONL, lines of text, files; CSV and Parquet have modules of their own.

A row that cannot be read is a row that is refused; where the rest cannot be read either, as in a
damaged archive, SourceError ends the run, and what was accepted before stays accepted.
"""

from __future__ import annotations

import glob
import gzip
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import orjson

from api.cli.enqueue.parquet_rows import open_parquet
from api.cli.enqueue.rows import BOM, NOT_UTF8, Columns, Reader, Row, RowError, SourceError
from api.cli.enqueue.tables import check_columns, csv_header, csv_rows
from api.client import Input

FORMATS = ("jsonl", "csv", "parquet", "lines", "files")
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "lines",
}
_STREAMED = ("jsonl", "csv", "lines")
_COUNT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """Rows, in an order that is the same every time."""

    name: str
    total: int | None
    """How many rows; None where that is not known before."""
    rows: Callable[[Reader], Iterator[Row]]
    folder: Path
    """Where its relative paths begin."""


def open_source(given: str, form: str | None, columns: Columns) -> Source:
    """The source as typed; raises SourceError, which says what to do."""
    if form is not None and form not in FORMATS:
        raise SourceError(f"--format {form!r} is none of {', '.join(FORMATS)}")
    if given == "-":
        return _stream(form or "jsonl", columns)
    path = Path(given)
    if path.is_dir():
        return _files(_files_below(path), path, given)
    if not path.exists() and glob.has_magic(given):
        found = [one for one in glob.glob(given, recursive=True) if os.path.isfile(one)]  # noqa: PTH113, PTH207 - Path has none that is absolute
        return _files(found, Path(), given)
    if not path.exists():
        raise SourceError(f"there is no file {given!r}; give a file, a folder, a glob, or -")
    form = form or _form_of(path)
    if form == "files":
        return _files([path.name], path.parent, given)
    if form == "parquet":
        total, read = open_parquet(path, columns)
        return Source(given, total, read, path.parent)
    return _file(path, form, columns)


def _form_of(path: Path) -> str:
    name = path.with_suffix("") if _is_packed(path) else path
    form = _SUFFIXES.get(name.suffix.lower())
    if form is None or (form == "parquet" and _is_packed(path)):
        raise SourceError(
            f"{str(path)!r} does not tell its format by its name; add --format {'|'.join(FORMATS)}"
        )
    return form


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _file(path: Path, form: str, columns: Columns) -> Source:
    """A file of rows, which may be packed by gzip."""
    with _opened(path) as stream:
        if form == "csv":
            check_columns(csv_header(stream, str(path)), columns, str(path))
    total = None if form == "csv" or _is_packed(path) else _lines_in(path)

    def rows(reader: Reader) -> Iterator[Row]:
        with _opened(path) as stream:
            yield from _rows_of(form, stream, reader, str(path))

    return Source(str(path), total, rows, path.parent)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with gzip.open(path) if _is_packed(path) else path.open("rb") as stream:
            yield cast("BinaryIO", stream)
    except (gzip.BadGzipFile, zlib.error, EOFError) as exc:
        raise SourceError(f"{str(path)!r} cannot be unpacked: {exc}") from exc


def _stream(form: str, columns: Columns) -> Source:
    if form not in _STREAMED:
        raise SourceError(f"standard input cannot be {form}; give a file")
    if sys.stdin is None:
        raise SourceError("standard input is closed; give a file")

    def rows(reader: Reader) -> Iterator[Row]:
        yield from _rows_of(form, sys.stdin.buffer, reader, "standard input", columns)

    return Source("standard input", None, rows, Path())


def _rows_of(
    form: str, stream: BinaryIO, reader: Reader, name: str, check: Columns | None = None
) -> Iterator[Row]:
    if form == "csv":
        return csv_rows(stream, reader, name, check)
    lines = _lines_of(stream)
    return _json_rows(lines, reader, name) if form == "jsonl" else _text_rows(lines, reader)


def _lines_of(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1."""
    for number, line in enumerate(stream, 1):
        text = line.removeprefix(BOM) if number == 1 else line
        if text.strip():
            yield number, text


def _json_rows(lines: Iterator[tuple[int, bytes]], reader: Reader, name: str) -> Iterator[Row]:
    for number, (line_number, line) in enumerate(lines):
        try:
            value = orjson.loads(line)
        except ValueError as exc:
            if number == 0:
                raise SourceError(
                    f"{name} is not JSONL: line {line_number} is not JSON ({exc}); for text, a "
                    "line each, add --format lines"
                ) from exc
            yield Row(str(number), Input(RowError(f"line {line_number} is not JSON ({exc})"), {}))
        else:
            is_object = isinstance(value, dict)
            yield reader.of_mapping(number, value) if is_object else reader.of_value(number, value)


def _text_rows(lines: Iterator[tuple[int, bytes]], reader: Reader) -> Iterator[Row]:
    for number, (line_number, line) in enumerate(lines):
        try:
            yield reader.of_value(number, line.decode().rstrip("\r\n"))
        except UnicodeDecodeError:
            yield Row(str(number), Input(RowError(f"line {line_number} {NOT_UTF8}"), {}))


def _files_below(folder: Path) -> list[str]:
    """The files of a folder and of its folders, by their paths in it, but for hidden ones."""
    found = []
    for at, folders, names in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith(".")]
        for name in names:
            path = os.path.join(at, name)  # noqa: PTH118 - text: there may be a million
            if not name.startswith(".") and os.path.isfile(path):  # noqa: PTH113
                found.append(os.path.relpath(path, folder))
    return found


def _files(names: list[str], folder: Path, given: str) -> Source:
    if not names:
        raise SourceError(
            f"{given!r} has no files; a folder is read with its folders, without hidden files"
        )
    names.sort()

    def rows(reader: Reader) -> Iterator[Row]:
        if needed := reader.columns.needed():
            raise SourceError(f"files have no columns, and {needed[0]!r} was asked for")
        for name in names:
            yield reader.of_file(folder / name, name)

    return Source(given, len(names), rows, folder)


def _lines_in(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb") as stream:
        while piece := stream.read(_COUNT_BYTES):
            count += piece.count(b"\n")
            last = piece
    return count + (not last.endswith(b"\n"))
