"""What `lanefleet profile` takes from a process that it does not trust."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.cli.profile import ProfileFailed, Target, find_running, take_over
from common.profiling.local_socket import LocalRefused


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "local"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "worker-7.sock"))
        listener.listen()
        yield folder / "worker-7.sock"


def test_a_trace_of_the_process_is_moved(listening: Path, tmp_path: Path) -> None:
    trace = listening.parent / "trace-1.json"
    trace.write_text("{}")
    take_over(str(trace), listening, tmp_path / "out.json")
    assert (tmp_path / "out.json").read_text() == "{}"
    assert not trace.exists()


def test_nothing_else_that_it_names_is(listening: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (tmp_path / "trace-elsewhere.json").write_text("{}")
    folder = listening.parent
    (folder / "trace-link.json").symlink_to(secret)
    os.link(secret, folder / "trace-hard.json")
    os.mkfifo(folder / "trace-pipe.json")
    named = (
        str(secret),
        str(tmp_path / "trace-elsewhere.json"),
        str(folder / "trace-link.json"),
        str(folder / "trace-hard.json"),
        str(folder / "trace-pipe.json"),
        "None",
    )
    for said in named:
        with pytest.raises((LocalRefused, OSError)):
            take_over(said, listening, tmp_path / "out.json")
    assert secret.read_text() == "secret"
    assert not (tmp_path / "out.json").exists()


def test_a_folder_that_others_may_write_to_is_refused(listening: Path) -> None:
    state = listening.parent.parent
    assert [one.pid for one in find_running(state, Target.WORKER)] == [7]
    listening.parent.chmod(0o777)
    with pytest.raises(ProfileFailed, match="0700"):
        find_running(state, Target.WORKER)


def test_so_is_a_link_to_one(listening: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "local").symlink_to(listening.parent)
    with pytest.raises(ProfileFailed, match="0700"):
        find_running(tmp_path / "state", Target.WORKER)
