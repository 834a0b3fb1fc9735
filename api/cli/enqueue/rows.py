"""From a row of a source to an input of `map`: which column is what, and what the model takes.

A row that cannot be one is passed on as the exception that says so: it is refused by its number,
and the others run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from api.client import ClientError, Input

BOM = b"\xef\xbb\xbf"
"""Which some programs write before UTF-8."""
NOT_UTF8 = "is not UTF-8; convert it, as by `iconv -f latin1 -t utf-8`"
_FILE_BYTES = 256 * 1024 * 1024
"""More than any fleet takes: a larger file is refused unread."""


class SourceError(ClientError):
    """The source cannot be read as a whole."""


class RowError(ValueError):
    """One row cannot be an input."""


class Row(NamedTuple):
    """One row: its id for whoever reads the results, and its input."""

    id: str
    input: Input


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a row are what."""

    input: str | None = None
    id: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    """Column to the name of a parameter."""

    def needed(self) -> list[str]:
        """Those that are named."""
        return [name for name in (self.input, self.id, *self.params) if name is not None]


@dataclass(frozen=True, slots=True)
class Reader:
    """Makes rows for one model."""

    kind: str
    """What the model takes: text, image or json."""
    columns: Columns
    folder: Path
    """Where paths that are not absolute begin."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Of every row."""

    def of_mapping(self, number: int, found: Mapping[str, Any]) -> Row:
        """A row with columns."""
        columns = self.columns
        name = columns.input or ("input" if "input" in found else None)
        own = found.get("params") if columns.input is None and "input" in found else None
        try:
            value = dict(found) if name is None else _column(found, name)
            params = _params_of(own)
            for column, parameter in columns.params.items():
                params[parameter] = _column(found, column)
            if columns.id is not None:
                row_id = _id_of(_column(found, columns.id), columns.id)
            else:
                given = found.get("id")
                row_id = str(given if isinstance(given, str | int) else number)
            return Row(row_id, self.input_of(value, params))
        except RowError as exc:
            return Row(str(number), Input(exc, {}))

    def of_value(self, number: int, value: Any) -> Row:
        """A row that is one value."""
        if self.columns.needed():
            why = f"it has no columns, and {self.columns.needed()[0]!r} was asked for"
            return Row(str(number), Input(RowError(why), {}))
        try:
            return Row(str(number), self.input_of(value, {}))
        except RowError as exc:
            return Row(str(number), Input(exc, {}))

    def of_file(self, path: Path, name: str) -> Row:
        """A row that is a file."""
        try:
            if (size := path.stat().st_size) > _FILE_BYTES:
                raise RowError(f"{path} has {size:,} bytes, which is more than an input may have")
            content: Any = path.read_bytes()
            if self.kind not in ("image", "audio"):
                content = content.decode()
            if self.kind == "json" and path.suffix == ".json":
                content = orjson.loads(content)
            return Row(name, self.input_of(content, {}))
        except RowError as exc:
            return Row(name, Input(exc, {}))
        except (OSError, ValueError) as exc:
            return Row(name, Input(RowError(f"{path}: {exc}"), {}))

    def input_of(self, value: Any, params: Mapping[str, Any]) -> Input:
        """The value as the model takes it; raises RowError."""
        params = {**self.params, **params} if self.params else params
        fields: dict[str, Any] = {"params": params} if params else {}
        if self.kind in ("image", "audio"):
            return self._file(value, fields)
        if self.kind == "text" and not isinstance(value, str):
            raise RowError(
                f"the model takes text, and this is {type(value).__name__}; name the column with "
                "the text by --input-column"
            )
        if isinstance(value, bytes):
            raise RowError("the model takes JSON, and the column has bytes")
        return Input(value, fields)

    def _file(self, value: Any, fields: dict[str, Any]) -> Input:
        if isinstance(value, dict) and ("bytes" in value or "path" in value):
            value = value.get("bytes") or value.get("path")  # as data sets keep pictures
        if isinstance(value, bytes | dict):
            return Input(value, fields)
        if not isinstance(value, str):
            what = "an image" if self.kind == "image" else "audio"
            raise RowError(f"the model takes {what}: bytes, the path of a file, or a URL")
        if value.startswith(("http://", "https://")):
            return Input(None, {**fields, "input_url": value})
        path = self.folder / value
        try:
            return Input(path.read_bytes(), fields)
        except (OSError, ValueError) as exc:
            raise RowError(f"there is no file at {str(path)[:200]!r}: {exc}") from exc


def _column(found: Mapping[str, Any], name: str) -> Any:
    if name not in found:
        raise RowError(f"it has no column {name!r}; it has {_some(found)}")
    return found[name]


def _params_of(own: Any) -> dict[str, Any]:
    if own is None:
        return {}
    if not isinstance(own, Mapping):
        raise RowError(f"its `params` is no object, but {str(own)[:40]!r}")
    return dict(own)


def _id_of(value: Any, column: str) -> str:
    if isinstance(value, bytes):
        return value.decode() if _is_utf8(value) else value.hex()
    if value is None or isinstance(value, dict | list):
        raise RowError(f"its column {column!r} has no name for the row, but {str(value)[:40]!r}")
    return str(value)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _some(found: Mapping[str, Any]) -> str:
    names = ", ".join(repr(str(name)[:40]) for name in list(found)[:8])
    return names or "none"
