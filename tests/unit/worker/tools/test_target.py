"""A tool's target: a free name, a folder that can be written, one run at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from common.errors import ConfigurationError
from worker.models.lock_file import locked
from worker.tools.target import claimed, free_target


def test_what_is_there_is_refused_a_dangling_link_too(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for taken in (tmp_path, tmp_path / "link"):
        with pytest.raises(ConfigurationError, match="is there already"):
            free_target(str(taken))
    assert free_target(str(tmp_path / "made")) == tmp_path / "made"


def test_a_second_run_is_refused_and_the_lock_leaves_with_the_first(tmp_path: Path) -> None:
    target = tmp_path / "parent" / "made"
    with claimed(target):
        assert [one.name for one in target.parent.iterdir()] == [".made.claim"]
        with pytest.raises(ConfigurationError, match="is being made by another run"):
            claimed(target).__enter__()
        assert [one.name for one in target.parent.iterdir()] == [".made.claim"]
    assert list(target.parent.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"could not be written: .*name another target"):
        claimed(tmp_path / "file" / "made").__enter__()


def test_a_lock_file_that_a_killed_process_left_is_free(tmp_path: Path) -> None:
    path = tmp_path / ".made.lock"
    path.touch()
    with locked(path, wait=False):
        pass
    assert not path.exists()


def test_who_waited_for_a_file_that_is_gone_takes_a_new_one(tmp_path: Path) -> None:
    path, order = tmp_path / ".made.lock", []

    def second() -> None:
        with locked(path):
            order.append("second")
            assert path.exists()

    with locked(path):
        other = threading.Thread(target=second)
        other.start()
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    assert not path.exists()
