"""Adds up what several API processes count, those that have ended as well.

One thread a process reads its frames. The last counts of a process that was killed stay in the
sum, so no counter goes back; at most its last second is missing.
"""

from __future__ import annotations

import socket
import struct
import threading

import structlog

from api.observability import snapshot
from api.observability.channel import ASKED, HEAD, frame

log = structlog.get_logger(__name__)


class Totals:
    """The sum of all processes that the supervisor has started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: dict[socket.socket, snapshot.Snapshot] = {}
        self._ended: snapshot.Snapshot = {}

    def adopt(self) -> socket.socket:
        """The other end, for a new process."""
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._read, args=(ours,), name="metrics", daemon=True).start()
        return theirs

    def sum(self) -> snapshot.Snapshot:
        """What all have counted until their last frames."""
        with self._lock:
            total = dict(self._ended)
            for counted in self._counted.values():
                snapshot.add(total, counted)
        return total

    def _read(self, process: socket.socket) -> None:
        with process, process.makefile("rb") as frames:
            try:
                while head := frames.read(HEAD.size):
                    size, kind = HEAD.unpack(head)
                    counted = snapshot.load(frames.read(size))
                    with self._lock:
                        self._counted[process] = counted
                    if kind == ASKED:
                        process.sendall(frame(ASKED, snapshot.dump(self.sum())))
            except (OSError, ValueError, struct.error) as exc:  # it was killed within a frame
                log.info("metrics_of_a_process_ended", error=str(exc))
            except Exception:
                log.exception("metrics_of_a_process_failed")
            with self._lock:
                snapshot.retire(self._ended, self._counted.pop(process, {}))
