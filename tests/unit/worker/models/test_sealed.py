"""What was sealed opens; what anybody changed does not, and the sentence says what."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.models.sealed import ABOUT, SEAL, Broken, copy_sealed, read_sealed, seal


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "state" / "compiled.key"


@pytest.fixture
def folder(tmp_path: Path, key: Path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    (made / "code").write_bytes(b"machine code")
    seal(made, {"for": "here"}, key)
    return made


def test_what_was_sealed_opens(folder: Path, key: Path, tmp_path: Path) -> None:
    about = read_sealed(folder, key)
    assert about["for"] == "here"
    copy_sealed(folder, "code", about, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"machine code"
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32


def _change_about(folder: Path, _key: Path) -> None:
    about = json.loads((folder / ABOUT).read_text())
    (folder / ABOUT).write_text(json.dumps({**about, "for": "elsewhere"}))


def _change_key(_folder: Path, key: Path) -> None:
    key.write_bytes(b"k" * 32)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (_change_about, "was changed, or sealed with another key"),
        (_change_key, "was changed, or sealed with another key"),
        (lambda folder, _: (folder / SEAL).write_text("0" * 64), "was changed, or sealed"),
        (lambda folder, _: (folder / SEAL).unlink(), "has no seal"),
        (lambda folder, _: (folder / SEAL).write_bytes(b"\xff"), "has no seal"),
        (lambda _, key: key.unlink(), "is gone"),
        (lambda _, key: key.chmod(0o640), "may be read by others"),
        (lambda _, key: key.write_bytes(b"short"), "has 5 bytes instead of 32"),
    ],
)
def test_whatever_was_changed_does_not_open(
    folder: Path, key: Path, harm: Callable[[Path, Path], object], says: str
) -> None:
    harm(folder, key)
    with pytest.raises(Broken, match=says):
        read_sealed(folder, key)


def test_a_file_that_was_changed_is_not_copied(folder: Path, key: Path, tmp_path: Path) -> None:
    about = read_sealed(folder, key)
    (folder / "code").write_bytes(b"machine c0de")
    with pytest.raises(Broken, match="code was changed since"):
        copy_sealed(folder, "code", about, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
