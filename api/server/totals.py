"""Adds up what several API processes count, those that have ended as well.

The last counts of a process that was killed stay in the sum, so no counter goes back; at most its
last second is missing. Without threads: the supervisor forks.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field

import structlog

from api.observability import snapshot
from api.observability.channel import ASKED, HEAD, frame

log = structlog.get_logger(__name__)

_SILENT_SECONDS = 10.0
_READ_BYTES = 256 * 1024
_ANSWER_SECONDS = 1.0
"""How long a process may take to read the sum that it has asked for."""


@dataclass(slots=True)
class _Told:
    """What a process told last, and when, in steady time; and the beginning of its next frame."""

    counted: snapshot.Snapshot = field(default_factory=dict)
    at: float = 0.0
    unread: bytearray = field(default_factory=bytearray)


class Totals:
    """The sum of all processes that the supervisor has started."""

    def __init__(self) -> None:
        self._told: dict[socket.socket, _Told] = {}
        self._ended: snapshot.Snapshot = {}
        self._highest: snapshot.Snapshot = {}

    def adopt(self) -> tuple[socket.socket, socket.socket]:
        """A socket to `read` whenever it is readable, and the other end, for a new process."""
        ours, theirs = socket.socketpair()
        ours.settimeout(_ANSWER_SECONDS)
        self._told[ours] = _Told()
        return ours, theirs

    def sum(self, now: float | None = None) -> snapshot.Snapshot:
        """What all have counted until their last frames; without the gauges of a process that has
        not told anything for some seconds, as one that hangs.
        """
        now = time.monotonic() if now is None else now
        total = dict(self._ended)
        for told in self._told.values():
            silent = now - told.at > _SILENT_SECONDS
            (snapshot.retire if silent else snapshot.add)(total, told.counted)
        snapshot.hold(total, self._highest)
        return total

    def read(self, process: socket.socket) -> bool:
        """Take what it has sent, and answer it; False once it has ended, and is closed."""
        try:
            chunk = process.recv(_READ_BYTES)
            if chunk:
                self._take(process, chunk)
                return True
        except (OSError, ValueError) as exc:  # killed, or it reads no answers
            log.warning("metrics_of_a_process_ended", error=str(exc))
        snapshot.retire(self._ended, self._told.pop(process).counted)
        process.close()
        return False

    def _take(self, process: socket.socket, chunk: bytes) -> None:
        told = self._told[process]
        told.unread += chunk
        while len(told.unread) >= HEAD.size:
            size, kind = HEAD.unpack_from(told.unread)
            end = HEAD.size + size
            if len(told.unread) < end:
                return
            told.counted = snapshot.load(bytes(told.unread[HEAD.size : end]))
            told.at = time.monotonic()
            del told.unread[:end]
            if kind == ASKED:
                process.sendall(frame(ASKED, snapshot.dump(self.sum())))
