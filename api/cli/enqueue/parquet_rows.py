"""Rows of Parquet: read a few megabytes at a time, and as values that JSON has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from api.cli.enqueue.parquet import has_pyarrow
from api.cli.enqueue.rows import Columns, Reader, Row, SourceError
from api.cli.enqueue.tables import check_columns

_BATCH_ROWS = 1024
_BATCH_BYTES = 8 * 1024 * 1024
_BUFFER_BYTES = 1 << 20


def open_parquet(path: Path, columns: Columns) -> tuple[int, Callable[[Reader], Iterator[Row]]]:
    """How many rows there are, and what reads them; raises SourceError."""
    if not has_pyarrow():
        raise SourceError("Parquet needs a package: pip install 'lanefleet[parquet]'")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names, total = file.schema_arrow.names, file.metadata.num_rows
            check_columns(names, columns, str(path))
            wanted = [name for name in columns.needed() if name in names]
            size = _rows_of_a_batch(file.metadata, set(wanted) if columns.input else None)
    except (pa.ArrowException, OSError) as exc:
        raise SourceError(f"{str(path)!r} is no Parquet file ({exc})") from exc

    def rows(reader: Reader) -> Iterator[Row]:
        number = 0
        try:
            with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
                for batch in file.iter_batches(size, columns=wanted if columns.input else None):
                    for row in _plain_rows(batch):
                        yield reader.of_mapping(number, row)
                        number += 1
        except (pa.ArrowException, OSError) as exc:
            raise SourceError(f"{path}: row {number} cannot be read ({exc})") from exc

    return total, rows


def _rows_of_a_batch(metadata: Any, wanted: set[str] | None) -> int:
    """So many that a batch has about _BATCH_BYTES."""
    size = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        parts = (group.column(at) for at in range(group.num_columns))
        size += sum(
            one.total_uncompressed_size
            for one in parts
            if wanted is None or one.path_in_schema.split(".", 1)[0] in wanted
        )
    each: int = size // max(1, metadata.num_rows)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, each)))


def _plain_rows(batch: Any) -> list[dict[str, Any]]:
    import pyarrow as pa

    columns = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            column = column.cast(pa.timestamp("us", field.type.tz), safe=False)
        columns.append(column)
    found = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
    try:
        rows: list[dict[str, Any]] = found.to_pylist()
    except ValueError as exc:  # nanoseconds in a list or a struct, which Python has no type for
        raise pa.ArrowInvalid(str(exc)) from exc
    odd = [field.name for field in batch.schema if _is_odd(field.type)]
    for row in rows if odd else ():
        for name in odd:
            row[name] = _plain(row[name])
    return rows


def _is_odd(kind: Any) -> bool:
    """Whether it has values that JSON does not have."""
    import pyarrow as pa

    types = pa.types
    if types.is_decimal(kind) or types.is_duration(kind):
        return True
    if types.is_dictionary(kind):
        return _is_odd(kind.value_type)
    return types.is_nested(kind) and any(
        _is_odd(kind.field(at).type) for at in range(kind.num_fields)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        near = float(value)
        if value == value.to_integral_value() and abs(near) < 2**53:
            return int(value)
        return near if Decimal(repr(near)) == value else str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
