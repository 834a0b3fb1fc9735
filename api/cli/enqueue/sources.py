"""What rows are read from: JSONL, CSV, Parquet, text lines, folders, globs and standard input."""

from __future__ import annotations

import csv
import glob
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import orjson

from api.cli.enqueue.rows import Columns, Reader, Row, RowError, SourceError
from api.client import Input

FORMATS = ("jsonl", "csv", "parquet", "lines", "files")
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "lines",
}
_BATCH_ROWS = 1024
_COUNT_BYTES = 1 << 20
_CSV_TEXT = "utf-8-sig"
_CSV_FIELD_BYTES = 64 * 1024 * 1024


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
    if given == "-":
        return _stream(form or "jsonl", columns)
    path = Path(given)
    if path.is_dir():
        return _files([one for one in path.rglob("*") if one.is_file()], path, given)
    if not path.exists() and glob.has_magic(given):
        found = [Path(one) for one in glob.glob(given, recursive=True)]  # noqa: PTH207 - Path has none that is absolute
        return _files([one for one in found if one.is_file()], Path(), given)
    if not path.exists():
        raise SourceError(f"there is no file {given!r}; give a file, a folder, a glob, or -")
    form = form or _SUFFIXES.get(path.suffix.lower())
    if form is None:
        raise SourceError(
            f"{given!r} does not tell its format by its name; add --format {'|'.join(FORMATS)}"
        )
    if form == "files":
        return _files([path], path.parent, given)
    if form == "parquet":
        return _parquet(path, columns)
    total = _lines_in(path) if form != "csv" else None
    if form == "csv":
        with path.open(encoding=_CSV_TEXT, newline="") as text:
            _check_columns(_csv_reader(text, given).fieldnames, columns, given)

    def rows(reader: Reader) -> Iterator[Row]:
        with path.open("rb") as stream:
            yield from _rows_of(form, stream, reader, given)

    return Source(given, total, rows, path.parent)


def _stream(form: str, columns: Columns) -> Source:
    if form not in ("jsonl", "csv", "lines"):
        raise SourceError(f"standard input cannot be {form}; give a file")

    def rows(reader: Reader) -> Iterator[Row]:
        yield from _rows_of(form, sys.stdin.buffer, reader, "standard input", columns)

    return Source("standard input", None, rows, Path())


def _rows_of(
    form: str, stream: BinaryIO, reader: Reader, name: str, check: Columns | None = None
) -> Iterator[Row]:
    if form == "csv":
        table = _csv_reader(io.TextIOWrapper(stream, _CSV_TEXT, newline=""), name)
        if check is not None:
            _check_columns(table.fieldnames, check, name)
        return _csv_rows(table, reader, name)
    return _json_rows(stream, reader, name) if form == "jsonl" else _text_rows(stream, reader)


def _json_rows(stream: BinaryIO, reader: Reader, name: str) -> Iterator[Row]:
    number = 0
    for line_number, line in enumerate(stream, 1):
        if not line.strip():
            continue
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
        number += 1


def _text_rows(stream: BinaryIO, reader: Reader) -> Iterator[Row]:
    number = 0
    for line_number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            yield reader.of_value(number, line.decode().rstrip("\r\n"))
        except UnicodeDecodeError:
            why = f"line {line_number} is not UTF-8"
            yield Row(str(number), Input(RowError(why), {}))
        number += 1


def _csv_reader(text: TextIO, name: str) -> csv.DictReader[str]:
    csv.field_size_limit(_CSV_FIELD_BYTES)
    table = csv.DictReader(text)
    try:
        if not table.fieldnames:
            raise SourceError(f"{name} has no header line that names its columns")
    except UnicodeDecodeError as exc:
        raise SourceError(f"{name} is not UTF-8 text") from exc
    return table


def _csv_rows(table: csv.DictReader[str], reader: Reader, name: str) -> Iterator[Row]:
    only = list(table.fieldnames or ())
    single = only[0] if len(only) == 1 and not reader.columns.input else None
    try:
        for number, found in enumerate(table):
            typed = {
                column: _number_or_text(value) if column in reader.columns.params else value
                for column, value in found.items()
                if column is not None
            }
            if single is not None and single != "input":
                yield reader.of_value(number, typed[single])
            else:
                yield reader.of_mapping(number, typed)
    except (csv.Error, UnicodeDecodeError) as exc:
        raise SourceError(f"{name}: line {table.line_num} cannot be read ({exc})") from exc


def _number_or_text(value: Any) -> Any:
    try:
        return orjson.loads(value)
    except ValueError:
        return value


def _parquet(path: Path, columns: Columns) -> Source:
    if find_spec("pyarrow") is None:
        raise SourceError("Parquet needs a package: pip install 'lanefleet[parquet]'")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names, total = file.schema_arrow.names, file.metadata.num_rows
    except (pa.ArrowException, OSError) as exc:
        raise SourceError(f"{str(path)!r} is no Parquet file ({exc})") from exc
    _check_columns(names, columns, str(path))
    wanted = [name for name in columns.needed() if name in names] if columns.input else None

    def rows(reader: Reader) -> Iterator[Row]:
        with pq.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted)
            found = chain.from_iterable(batch.to_pylist() for batch in batches)
            for number, row in enumerate(found):
                yield reader.of_mapping(number, row)

    return Source(str(path), total, rows, path.parent)


def _files(paths: list[Path], folder: Path, given: str) -> Source:
    if not paths:
        raise SourceError(f"{given!r} has no files; a folder is read with its folders")
    paths.sort()

    def rows(reader: Reader) -> Iterator[Row]:
        if needed := reader.columns.needed():
            raise SourceError(f"files have no columns, and {needed[0]!r} was asked for")
        for path in paths:
            name = path.relative_to(folder) if path.is_relative_to(folder) else path
            yield reader.of_file(path, str(name))

    return Source(given, len(paths), rows, folder)


def _check_columns(names: Any, columns: Columns, where: str) -> None:
    for column in columns.needed():
        if column not in (names or ()):
            has = ", ".join(repr(name) for name in list(names or ())[:12])
            raise SourceError(f"{where} has no column {column!r}; it has {has}")


def _lines_in(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb") as stream:
        while piece := stream.read(_COUNT_BYTES):
            count += piece.count(b"\n")
            last = piece
    return count + (not last.endswith(b"\n"))
