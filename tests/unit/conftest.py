"""What belongs here runs in one process: no child, no socket but to the loop's own."""

from __future__ import annotations

import socket
import subprocess
from typing import Any, NoReturn

import pytest


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that starts a process or connects somewhere fails, and names where it belongs."""

    def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
        pytest.fail("tests/unit starts no process and opens no connection; see tests/process")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
