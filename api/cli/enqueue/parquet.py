"""JSONL of results as Parquet: twice through the file, so that memory holds one part of it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from api.client import ClientError

_ROWS = 4096


def has_pyarrow() -> bool:
    """Whether the package is installed."""
    return find_spec("pyarrow") is not None


def check_parquet() -> None:
    """Raise ClientError where the package is missing: before the run, not at its end."""
    if not has_pyarrow():
        raise ClientError("Parquet needs a package: pip install 'lanefleet[parquet]'")


def to_parquet(parts: Path, target: Path) -> None:
    """Write the rows of `parts` to `target`; results that have no common type, as JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, as_text = _schema_of(parts)
    partial = target.with_name(f"{target.name}.partial")
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for rows in _batches(parts, as_text):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    partial.replace(target)


def _schema_of(parts: Path) -> tuple[Any, bool]:
    import pyarrow as pa

    empty = pa.schema([("index", pa.int64()), ("id", pa.string()), ("result", pa.null())])
    schema = empty
    try:
        for rows in _batches(parts, as_text=False):
            found = pa.Table.from_pylist(rows).schema
            schema = pa.unify_schemas([schema, found], promote_options="permissive")
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return empty.set(2, pa.field("result", pa.string())), True
    if _has_no_fields(schema.field("result").type):
        return empty.set(2, pa.field("result", pa.string())), True
    return schema, False


def _has_no_fields(kind: Any) -> bool:
    """Whether Parquet cannot hold it: an object that is empty in every row."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return not kind.num_fields or any(_has_no_fields(one.type) for one in kind)
    return bool(pa.types.is_list(kind)) and _has_no_fields(kind.value_type)


def _batches(parts: Path, as_text: bool) -> Iterator[list[dict[str, Any]]]:
    with parts.open("rb") as stream:
        while lines := list(islice(stream, _ROWS)):
            rows = [orjson.loads(line) for line in lines]
            if as_text:
                for row in rows:
                    row["result"] = orjson.dumps(row["result"]).decode()
            yield rows
