"""A Kombu transport that keeps messages instead of sending them.

With it Celery makes successors' messages by its own code, in the form in which Kombu's Redis
transport pushes them; they are pushed later, with the removal of what they come from.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu.transport import virtual
from kombu.utils.json import dumps

from common.redis.keys import band_key

_made = threading.local()

Recorded = list[tuple[str, bytes]]
"""The Redis list of each message, and the message as JSON."""


@contextmanager
def recording() -> Iterator[Recorded]:
    """What this thread sends meanwhile."""
    messages: Recorded = []
    _made.messages = messages
    try:
        yield messages
    finally:
        _made.messages = None


class _Channel(virtual.Channel):  # Kombu has no types
    """Keeps what is put into queues; what goes to every worker at once is dropped."""

    supports_fanout = True
    do_restore = False

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        priority = self._get_message_priority(message, reverse=False)  # type: ignore[no-untyped-call]
        _made.messages.append((band_key(queue, priority), dumps(message).encode()))  # type: ignore[no-untyped-call]

    def _put_fanout(self, *_args: Any, **_kwargs: Any) -> None:
        """A broadcast, such as a revoke of what was never sent."""

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> list[str]:
        # A queue that only other applications declare: its name is the usual routing key.
        return super()._lookup(exchange, routing_key, default or routing_key)  # type: ignore[no-any-return,no-untyped-call]

    def _new_queue(self, queue: str, **_: Any) -> None:
        """Nothing is kept in queues."""

    def _queue_bind(self, *_args: Any) -> None:
        """Kombu keeps the bindings of this connection itself."""

    def get_table(self, exchange: str) -> list[tuple[str, str, str]]:
        """The bindings: routing key, pattern, queue."""
        bound: list[tuple[str, str, str]] = self.state.exchanges[exchange]["table"]
        return bound

    def _size(self, _queue: str) -> int:
        return 0

    def _purge(self, _queue: str) -> int:
        return 0


class RecordingTransport(virtual.Transport):
    """Connects to nothing."""

    Channel = _Channel
    driver_type = driver_name = "recorder"

    def driver_version(self) -> str:
        """None of its own."""
        return ""
