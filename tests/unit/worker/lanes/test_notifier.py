"""What the notifier makes of a server that refuses it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from common.redis.keys import CANCELED_CHANNEL, CONTROL_CHANNEL, STARVED_CHANNEL
from worker.lanes.notifier import Notifier


def test_a_refused_tracking_leaves_no_answer_behind() -> None:
    from redis.exceptions import ResponseError

    answers: list[Any] = [ResponseError("no permission"), ResponseError("no permission"), 1]

    class Wire:
        is_connected = True

        def pack_commands(self, commands: Any) -> Any:
            return commands

        def send_packed_command(self, _commands: Any) -> None: ...

        def disconnect(self) -> None: ...

        def read_response(self) -> Any:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    wire: Any = Wire()
    connect: Any = lambda: SimpleNamespace(  # noqa: E731
        connection_pool=SimpleNamespace(make_connection=lambda: wire)
    )
    none: Any = lambda *_: None  # noqa: E731
    notifier = Notifier(connect, {"a": ("lane-a",)}, none, none, none, none)
    notifier._redirect_to = 7
    assert notifier.arm(["a"]) == {"a"}
    assert answers == []
    assert not notifier.is_told
    answers.append(0)
    assert notifier.arm(["a"]) == set(), "it is not asked for again, fifty times a second"
    assert answers == []


def test_what_is_no_name_ends_no_listening() -> None:
    """Anybody with the Redis may publish on our channels."""
    connect: Any = lambda: SimpleNamespace(  # noqa: E731
        connection_pool=SimpleNamespace(make_connection=lambda: None)
    )
    heard: list[Any] = []
    none: Any = lambda *_: None  # noqa: E731
    notifier = Notifier(
        connect,
        {"a": ("lane-a",)},
        none,
        lambda lane, tag: heard.append((lane, tag)),
        heard.append,
        heard.append,
    )
    for channel in (CANCELED_CHANNEL, CONTROL_CHANNEL, STARVED_CHANNEL):
        notifier._hear([b"message", channel.encode(), b"\xff tag"])
    assert heard == [("\ufffd", b"tag"), b"\xff tag", "\ufffd tag"]
