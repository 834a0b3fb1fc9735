"""Adds up what several API processes count, those that have ended as well.

One thread a process reads its frames. The last counts of a process that was killed stay in the
sum, so no counter goes back; at most its last second is missing.
"""

from __future__ import annotations

import socket
import struct
import threading
import time

import structlog

from api.observability import snapshot
from api.observability.channel import ASKED, HEAD, frame

log = structlog.get_logger(__name__)

_SILENT_SECONDS = 10.0


class Totals:
    """The sum of all processes that the supervisor has started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: dict[socket.socket, tuple[snapshot.Snapshot, float]] = {}
        """What each process told last, and when, in steady time."""
        self._ended: snapshot.Snapshot = {}

    def adopt(self) -> socket.socket:
        """The other end, for a new process."""
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._read, args=(ours,), name="metrics", daemon=True).start()
        return theirs

    def sum(self, now: float | None = None) -> snapshot.Snapshot:
        """What all have counted until their last frames; without the gauges of a process that has
        not told anything for some seconds, as one that hangs.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            total = dict(self._ended)
            for counted, told_at in self._counted.values():
                silent = now - told_at > _SILENT_SECONDS
                (snapshot.retire if silent else snapshot.add)(total, counted)
        return total

    def _read(self, process: socket.socket) -> None:
        with process, process.makefile("rb") as frames:
            try:
                while head := frames.read(HEAD.size):
                    size, kind = HEAD.unpack(head)
                    counted = snapshot.load(frames.read(size))
                    with self._lock:
                        self._counted[process] = counted, time.monotonic()
                    if kind == ASKED:
                        process.sendall(frame(ASKED, snapshot.dump(self.sum())))
            except (OSError, ValueError, struct.error) as exc:  # it was killed within a frame
                log.info("metrics_of_a_process_ended", error=str(exc))
            except Exception:
                log.exception("metrics_of_a_process_failed")
            with self._lock:
                counted, _ = self._counted.pop(process, ({}, 0.0))
                snapshot.retire(self._ended, counted)
