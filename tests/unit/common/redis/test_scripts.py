"""How the scripts find out which server they are for, where it says little of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import NoPermissionError, ResponseError
from structlog.testing import capture_logs

from common.redis.refusals import forget_refusals
from common.redis.scripts import Scripts


@pytest.fixture(autouse=True)
def as_if_begun() -> Iterator[None]:
    forget_refusals()
    yield
    forget_refusals()


class Client:
    """Answers INFO and HELLO, or raises what it is given."""

    def __init__(self, info: Any, hello: Any = None) -> None:
        self._answers = {"INFO": info, "HELLO": hello}

    def info(self, _section: str) -> Any:
        return self.execute_command("INFO")

    def execute_command(self, name: str) -> Any:
        answer = self._answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer


NO_INFO = NoPermissionError("no permissions to run the 'info' command")


@pytest.mark.parametrize(
    ("client", "major", "told"),
    [
        (Client({"redis_version": "6.2.1"}), 6, []),
        (Client(NO_INFO, [b"server", b"redis", b"version", b"6.2.20", b"proto", 2]), 6, ["INFO"]),
        (Client(NO_INFO, {b"server": b"redis", b"version": b"7.0.15"}), 7, ["INFO"]),
        (Client(NO_INFO, ResponseError("unknown command 'HELLO'")), 7, ["INFO", "HELLO"]),
    ],
)
def test_the_version_is_found_out_another_way_and_told_once(
    client: Any, major: int, told: list[str]
) -> None:
    with capture_logs() as logs:
        for _ in range(2):
            assert Scripts(client)._ask_major() == major
    assert [one["command"] for one in logs] == told
