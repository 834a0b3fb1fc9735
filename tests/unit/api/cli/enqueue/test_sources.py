"""Whatever a source holds, it is rows, refused rows, or one sentence that says what to do."""

from __future__ import annotations

import gzip
import io
import os
import sys
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from api.cli.enqueue.rows import Columns, Reader, Row, SourceError
from api.cli.enqueue.sources import open_source
from api.client.calls import dump_json, json_input

TEXT = Columns(input="text", id="id")


NO_COLUMNS = Columns()


def rows_of(
    path: Path | str,
    columns: Columns = NO_COLUMNS,
    kind: str = "json",
    form: str | None = None,
) -> list[Row]:
    source = open_source(str(path), form, columns)
    return list(source.rows(Reader(kind, columns, source.folder)))


def sent(row: Row) -> Any:
    """The input as it is sent; the sentence where it is refused."""
    value = row.input.value
    if isinstance(value, Exception):
        return str(value)
    dump_json(json_input(value))
    return value


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_table_with_quoted_line_breaks_windows_ends_and_a_mark_of_its_order(
    tmp_path: Path,
) -> None:
    path = written(
        tmp_path / "t.csv", b'\xef\xbb\xbfid,text\r\na,"one\r\ntwo"\r\n\r\nb,"say ""hi"""\r\n'
    )
    assert [(row.id, sent(row)) for row in rows_of(path, TEXT)] == [
        ("a", "one\r\ntwo"),
        ("b", 'say "hi"'),
    ]


def test_a_table_with_the_line_ends_of_old_macs(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", b"id,text\ra,one\rb,two\r")
    assert [(row.id, sent(row)) for row in rows_of(path, TEXT)] == [("a", "one"), ("b", "two")]


def test_rows_of_a_table_that_do_not_fit_its_header_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", b"id,text\na,fine\nb\nc,too,many\nd,caf\xe9\ne,fine\n")
    assert [sent(row) for row in rows_of(path, TEXT)] == [
        "fine",
        "line 3 has 1 fields, and the header 2",
        "line 4 has 3 fields, and the header 2",
        "line 5 is not UTF-8; convert it, as by `iconv -f latin1 -t utf-8`",
        "fine",
    ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"", "has no header line"),
        ("t.csv", b"id,text,id\n1,2,3\n", "has two columns 'id'; rename or drop one"),
        ("t.csv", b"id,text\n", ""),
        ("t.csv", b"id,caf\xe9\n1,2\n", "the header line is not UTF-8"),
        ("t.csv", "id,text\n1,2\n".encode("utf-16"), "the header line is not UTF-8"),
        ("t.csv", b"id,words\n1,2\n", "no column 'text'; it has 'id', 'words'"),
        ("t.jsonl", b"", ""),
        ("t.jsonl", b"\n  \r\n", ""),
        ("t.jsonl", b"\x00\x01\x02\n", "line 1 is not JSON"),
        ("t.jsonl", b"PAR1\n", "is not JSONL"),
        ("t.parquet", b"", "is no Parquet file"),
        ("t.parquet", b"PAR1" + bytes(100) + b"PAR1", "is no Parquet file"),
        ("t.csv.gz", b"id,text\n1,2\n", "cannot be unpacked"),
        ("t.jsonl.gz", gzip.compress(b'{"id": 1, "text": "x"}\n' * 9000)[:-20], "be unpacked"),
        ("t.parquet.gz", b"", "does not tell its format"),
        ("t.xlsx", b"", "does not tell its format"),
    ],
)
def test_what_is_no_source_is_one_sentence(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = written(tmp_path / name, content)
    if not says:
        assert rows_of(path, TEXT) == []
        return
    with pytest.raises(SourceError, match=says):
        rows_of(path, TEXT)


def test_lines_of_json_that_cannot_be_read_are_refused_and_the_others_run(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"id":"a","text":"x"}',
        b"",
        b'{"id":"b","text":"\xe9"}',
        b"{",
        b"[1]",
        b'{"id":"c","text":"y"}\r',
        b'{"id":null,"text":"z"}',
        b'{"id":{},"text":"z"}',
    ]
    found = rows_of(written(tmp_path / "t.jsonl", b"\n".join(lines)), TEXT)
    assert [row.id for row in found] == ["a", "1", "2", "3", "c", "5", "6"]
    said = list(map(sent, found))
    assert (said[0], said[4]) == ("x", "y")
    assert "line 3 is not JSON" in said[1]
    assert "line 4 is not JSON" in said[2]
    assert "no columns, and 'text' was asked for" in said[3]
    assert "column 'id' has no name for the row, but 'None'" in said[5]
    assert "column 'id' has no name" in said[6]


def test_a_row_may_have_parameters_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", b'{"input":1,"params":{"a":2}}\n{"input":1,"params":3}\n')
    first, second = rows_of(path)
    assert first.input.fields == {"params": {"a": 2}}
    assert sent(second) == "its `params` is no object, but '3'"


def test_text_and_packed_files(tmp_path: Path) -> None:
    path = written(tmp_path / "t.txt", b"\xef\xbb\xbfone\r\n\r\ncaf\xe9\r\nthree")
    said = [sent(row) for row in rows_of(path, kind="text")]
    assert (said[0], said[2]) == ("one", "three")
    assert "line 3 is not UTF-8" in said[1]
    packed = written(tmp_path / "t.CSV.gz", gzip.compress(b"id,text\n1,x\n"))
    assert [sent(row) for row in rows_of(packed, TEXT)] == ["x"]
    assert open_source(str(packed), None, TEXT).total is None


def test_a_closed_standard_input_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SourceError, match="standard input is closed"):
        rows_of("-")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert rows_of("-") == []
    with pytest.raises(SourceError, match="cannot be parquet"):
        rows_of("-", form="parquet")
    with pytest.raises(SourceError, match="'xml' is none of jsonl, csv"):
        rows_of("-", form="xml")


def test_a_folder_is_read_without_hidden_files_and_pipes(tmp_path: Path) -> None:
    for name in ("b.txt", "deep/a.txt", ".hidden", ".git/config", "deep/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    assert [(row.id, sent(row)) for row in rows_of(tmp_path, kind="text")] == [
        ("b.txt", "b.txt"),
        ("deep/a.txt", "deep/a.txt"),
    ]
    found = rows_of(tmp_path / "**" / "*.txt", kind="text")
    assert [sent(row) for row in found] == ["b.txt", "deep/a.txt"]


def parquet(path: Path, **columns: Any) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(columns), path)
    return path


def test_columns_of_any_type_become_json(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    path = parquet(
        tmp_path / "t.parquet",
        whole=pa.array([Decimal("7.00"), None]),
        exact=pa.array([Decimal("1.50"), Decimal("0.1234567890123456789")]),
        day=pa.array([date(2026, 1, 2), None]),
        at=pa.array([1_700_000_000_000_000_001, None], pa.timestamp("ns", "UTC")),
        lasts=pa.array([timedelta(seconds=1.5), None]),
        kind=pa.array(["a", "b"]).dictionary_encode(),
        deep=pa.array([[{"x": Decimal("2.5"), "y": [1]}], None]),
        pairs=pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        blank=pa.array([None, None], pa.null()),
    )
    first, second = map(sent, rows_of(path))
    assert first == {
        "whole": 7, "exact": 1.5, "day": date(2026, 1, 2), "lasts": 1.5, "kind": "a",
        "at": datetime.fromisoformat("2023-11-14T22:13:20+00:00"),
        "deep": [{"x": 2.5, "y": [1]}], "pairs": [("k", 1)], "blank": None,
    }  # fmt: skip
    assert (second["exact"], second["kind"]) == ("0.1234567890123456789", "b")


def test_pictures_in_columns_are_inputs_of_image_models(tmp_path: Path) -> None:
    written(tmp_path / "p.jpg", b"jpeg")
    pictures = [{"bytes": b"one", "path": None}, {"bytes": None, "path": "p.jpg"},
                {"bytes": None, "path": None}]  # fmt: skip
    path = parquet(tmp_path / "t.parquet", image=pictures, plain=[b"two", None, b""])
    found = rows_of(path, Columns(input="image"), "image")
    assert [sent(row) for row in found[:2]] == [b"one", b"jpeg"]
    assert "the model takes an image" in sent(found[2])
    assert sent(rows_of(path, Columns(input="plain"), "image")[0]) == b"two"
    assert "the column has bytes" in sent(rows_of(path, Columns(input="plain"))[0])


def test_names_of_rows_may_be_bytes_numbers_and_nothing(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", id=[b"caf\xc3\xa9", b"\xff\x00", None], text=["a"] * 3)
    found = rows_of(path, TEXT)
    assert [row.id for row in found] == ["café", "ff00", "2"]
    assert "has no name" in sent(found[2])


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["text", "text"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(SourceError, match="two columns 'text'"):
        rows_of(tmp_path / "t.parquet")


def test_a_damaged_page_ends_the_rows_with_a_sentence(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", text=[f"row {n} {n * n}" for n in range(9000)])
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    path.write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read"):
        rows_of(path, Columns(input="text"))
