"""Rows of CSV. A row with more or fewer fields than the header is refused, and none is guessed."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import orjson

from api.cli.enqueue.rows import NOT_UTF8, Columns, Reader, Row, RowError, SourceError
from api.client import Input

_FIELD_BYTES = 64 * 1024 * 1024


def check_columns(names: Sequence[str], columns: Columns, where: str) -> None:
    """Raise SourceError where a column is missing, or two have one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SourceError(f"{where} has two columns {name!r}; rename or drop one")
        seen.add(name)
    for column in columns.needed():
        if column not in seen:
            has = ", ".join(repr(name) for name in names[:12])
            raise SourceError(f"{where} has no column {column!r}; it has {has}")


def csv_header(stream: BinaryIO, name: str) -> list[str]:
    """The names of the columns."""
    return _header(_reader(stream), name)


def csv_rows(
    stream: BinaryIO, reader: Reader, name: str, check: Columns | None = None
) -> Iterator[Row]:
    """The rows below the header, whose columns are checked first if that is asked for."""
    table = _reader(stream)
    header = _header(table, name)
    if check is not None:
        check_columns(header, check, name)
    alone = len(header) == 1 and header != ["input"] and not reader.columns.needed()
    number = -1
    try:
        for fields in table:
            if not fields:
                continue
            number += 1
            if why := _fault(fields, header):
                yield Row(str(number), Input(RowError(f"line {table.line_num} {why}"), {}))
            elif alone:
                yield reader.of_value(number, fields[0])
            else:
                yield reader.of_mapping(number, _typed(header, fields, reader.columns))
    except csv.Error as exc:
        raise SourceError(f"{name}: line {table.line_num} cannot be read ({exc})") from exc


def _reader(stream: BinaryIO) -> Any:
    csv.field_size_limit(_FIELD_BYTES)
    return csv.reader(_Lines(stream))


class _Lines:
    """The lines of text. What is not UTF-8 is kept as lone surrogates, so that it is one row's
    fault; the stream stays open.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")

    def __iter__(self) -> Iterator[str]:
        yield from self._text

    def __del__(self) -> None:
        with contextlib.suppress(ValueError):  # it was closed by who opened it
            self._text.detach()


def _header(table: Iterable[list[str]], name: str) -> list[str]:
    try:
        header = next(iter(table), [])
    except csv.Error as exc:
        raise SourceError(f"{name}: the header line cannot be read ({exc})") from exc
    if not header:
        raise SourceError(f"{name} has no header line that names its columns")
    if not _is_text(header):
        raise SourceError(f"{name}: the header line {NOT_UTF8}")
    return header


def _fault(fields: list[str], header: list[str]) -> str | None:
    if len(fields) != len(header):
        return f"has {len(fields)} fields, and the header {len(header)}"
    return None if _is_text(fields) else NOT_UTF8


def _is_text(fields: list[str]) -> bool:
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return False
    return True


def _typed(header: list[str], fields: list[str], columns: Columns) -> dict[str, Any]:
    found: dict[str, Any] = dict(zip(header, fields, strict=True))
    for column in columns.params:
        found[column] = _number_or_text(found[column])
    return found


def _number_or_text(value: str) -> Any:
    try:
        return orjson.loads(value)
    except ValueError:
        return value
