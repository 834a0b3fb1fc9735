"""Caretakers: threads that do one task periodically, each with a connection of its own.

Threads of their own, because their tasks must continue while other threads are blocked.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

import structlog
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)


class Caretaker(ABC):
    """A thread that runs `run_once` at intervals until it is stopped."""

    def __init__(self, name: str, due: threading.Event | None = None) -> None:
        """Setting `due` starts the next round at once."""
        self._due = due or threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the round in progress."""
        self._stopping.set()
        self._due.set()
        self._thread.join(2)

    @abstractmethod
    def interval(self) -> float:
        """Seconds until the next round."""

    @abstractmethod
    def run_once(self) -> None:
        """Run one round; may raise RedisError."""

    def on_trouble(self) -> None:  # noqa: B027 - most need nothing here
        """Handle a round that failed with RedisError; by default the next round runs as planned."""

    def _run(self) -> None:
        while True:
            self._due.wait(self.interval())
            self._due.clear()
            if self._stopping.is_set():
                return
            try:
                self.run_once()
            except RedisError as exc:
                log.warning("caretaker_delayed", role=self._thread.name, error=str(exc))
                self.on_trouble()
            except Exception:
                log.exception("caretaker_failed", role=self._thread.name)
