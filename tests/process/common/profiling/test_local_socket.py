"""The socket of a process' own user: who may ask, what is answered, how long it holds."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from common.errors import FleetError
from common.profiling import local_socket, tracing
from common.profiling.local_socket import (
    FOLDER,
    Held,
    LocalRefused,
    LocalSocket,
    asked,
    is_listening,
    read_answer,
)


@pytest.fixture
def released() -> threading.Event:
    return threading.Event()


@pytest.fixture
def served(tmp_path: Path, released: threading.Event) -> Iterator[LocalSocket]:
    def refuse(_request: Mapping[str, Any], _pid: int) -> None:
        raise FleetError("not now")

    made = LocalSocket(
        tmp_path,
        "worker-1",
        {
            "echo": lambda request, pid: [request["value"], pid],
            "hold": lambda _request, _pid: Held("held", 60.0, released.set),
            "refuse": refuse,
        },
    )
    assert made.start()
    yield made
    made.stop()


def ask(path: Path, **request: Any) -> Any:
    with asked(path, request, 30) as connection:
        return read_answer(connection)


def test_a_request_is_answered_and_the_kernel_says_who_asks(served: LocalSocket) -> None:
    assert ask(served.path, do="echo", value="x") == ["x", os.getpid()]


def test_only_its_user_can_reach_it(served: LocalSocket) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(served.path.parent.stat().st_mode) == 0o700


def test_another_user_is_refused_whatever_the_modes(
    served: LocalSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_socket, "_who", lambda _connection: (1, os.getuid() + 1))
    with pytest.raises(LocalRefused, match="only the user"):
        ask(served.path, do="echo", value="x")


def test_a_folder_that_others_can_enter_gets_no_socket(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir(mode=0o755)
    (tmp_path / FOLDER).chmod(0o755)
    assert not LocalSocket(tmp_path, "worker-1", {}).start()


def test_what_cannot_be_done_is_a_sentence(served: LocalSocket, tmp_path: Path) -> None:
    with pytest.raises(LocalRefused, match="knows no request"):
        ask(served.path, do="other")
    with pytest.raises(LocalRefused, match="not now"):
        ask(served.path, do="refuse")
    with pytest.raises(LocalRefused, match="KeyError"):
        ask(served.path, do="echo")
    with pytest.raises(LocalRefused, match="nobody answers"):
        ask(tmp_path / FOLDER / "worker-2.sock", do="echo")


def test_what_is_held_is_released_when_the_asking_process_has_gone(
    served: LocalSocket, released: threading.Event
) -> None:
    with asked(served.path, {"do": "hold"}, 30) as connection:
        assert read_answer(connection) == "held"
        assert not released.is_set()
    assert released.wait(30)


def test_the_socket_of_a_killed_process_is_removed_when_it_is_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead, local_socket._short(folder / "a.sock") as address:
        dead.bind(address)
    assert not is_listening(folder / "a.sock")
    assert not (folder / "a.sock").exists()


def test_a_path_longer_than_the_kernel_takes_works(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    made = LocalSocket(folder, "worker-1", {"echo": lambda _request, _pid: 1})
    assert made.start()
    assert is_listening(made.path)
    assert ask(made.path, do="echo") == 1
    made.stop()
    assert not made.path.exists()


def test_the_asking_process_is_named_as_tracer_until_it_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, over = [], threading.Event()

    def name(pid: int) -> None:
        named.append(pid)
        if not pid:
            over.set()

    monkeypatch.setattr(tracing, "_name_tracer", name)
    made = tracing.socket_of_api(tmp_path, 7)
    assert made.start()
    with asked(made.path, {"do": "trace"}, 30) as connection:
        assert read_answer(connection) == "permitted"
        with pytest.raises(LocalRefused, match="under way"):
            ask(made.path, do="trace")
    assert over.wait(30)
    made.stop()
    assert named == [os.getpid(), 0]


def test_the_kernel_takes_the_call() -> None:
    tracing._name_tracer(os.getpid())
    tracing._name_tracer(0)
