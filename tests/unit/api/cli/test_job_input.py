"""What `lanefleet submit` makes of its arguments, before anything is sent."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from typer import BadParameter
from typer.testing import CliRunner

from api.cli import app
from api.cli.job_input import read_given


class _Stdin:
    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"\xff\xd8pixels")
    (tmp_path / "notes").write_text("words")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox.",
        "fox",
        "",
        "and/or",
        "3.14",
        '{"a": [1, 2]}',
        "See https://example.com/photos/dog.jpg",
        "https://example.com/dog.jpg",
        "data:image/png;base64,iVBORw0KGgo/AAA=",
        "It is said in the file report.pdf",
        "a" * 300,
        "a\0b",
        "line one\nnotes.txt",
        "é" * 5000,
    ],
)
def test_a_text_is_a_text(text: str) -> None:
    assert read_given(text, None, False) == text


@pytest.mark.parametrize("name", ["notes", "photos/cat.jpg", "./photos/cat.jpg"])
def test_a_file_that_is_there_is_read(name: str) -> None:
    assert read_given(name, None, False) == Path(name)
    assert read_given(None, Path(name), False) == Path(name)
    assert read_given(name, None, True) == name


@pytest.mark.parametrize(
    "name",
    [
        "cat.jpg",
        "my cat.png",
        "./cat",
        "../cat",
        "/nowhere/cat",
        "~/cat",
        "photos/dog",
        "notes.txt",
    ],
)
def test_a_file_that_is_not_there_is_no_text(name: str) -> None:
    with pytest.raises(BadParameter, match=r"there is no file .* say so with --text"):
        read_given(name, None, False)
    with pytest.raises(BadParameter, match="No such file"):
        read_given(None, Path(name), False)
    assert read_given(name, None, True) == name


def test_what_comes_from_another_command_is_text_or_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", _Stdin("naïve".encode()))
    assert read_given("-", None, False) == "naïve"
    monkeypatch.setattr("sys.stdin", _Stdin(b"\xff\xd8pixels"))
    given: Any = read_given("-", None, False)
    assert given.read() == b"\xff\xd8pixels"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fox", "--params", "{"], "--params is not JSON"),
        (["fox", "--params", "[1]"], "--params has to be a JSON object"),
        (["fox", "--params", '{"x": NaN}'], "--params is not JSON"),
        (["fox", "--params", "[" * 5000], "--params is not JSON"),
        (["no-such.jpg"], "there is no file"),
        (["photos/"], "there is no file"),
        (["--file", "photos"], "Is a directory"),
        ([], "give VALUE, or a file by --file"),
        (["fox", "--file", "notes"], "give VALUE, or a file by --file"),
        (["caf\udce9"], "VALUE is not UTF-8"),
        (["fox", "--wait", "-1"], "greater than or equal to 0"),
    ],
)
@pytest.mark.parametrize("command", [["submit"], ["jobs", "submit"]])
def test_a_wrong_argument_is_one_sentence_and_status_2(
    command: list[str], arguments: list[str], says: str
) -> None:
    answer = CliRunner().invoke(app, [*command, "minilm", *arguments])
    assert (answer.exit_code, answer.exception.__class__) == (2, SystemExit)
    assert says in re.sub(r"[│\s]+", " ", answer.output)
