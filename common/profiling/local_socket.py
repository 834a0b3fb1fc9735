"""A Unix socket on which a process takes requests of its own user, on its own machine.

For what must be reachable neither over HTTP nor through Redis. The socket lies in a folder of mode
0700 in the state folder and has mode 0600, and the kernel says who asks (SO_PEERCRED): the process'
own user, or root. One line of JSON each way; what a request allows lasts until its connection is
closed, so that nothing stays allowed when the asking process dies.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from common.errors import FleetError

log = structlog.get_logger(__name__)

FOLDER = "local"
_MAX_LINE_BYTES = 64 * 1024
_MAX_ASKING = 4
"""Requests at once."""
_READ_SECONDS = 5.0
_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid."""


class LocalRefused(FleetError):
    """The process refuses, cannot, or is not there; the text says why."""

    code = "local_refused"


@dataclass(frozen=True, slots=True)
class Held:
    """An answer that allows something until the asking process has closed its connection."""

    answer: Any
    seconds: float
    """At most."""
    release: Callable[[], None]


Answer = Callable[[Mapping[str, Any], int], Any]
"""Takes the request and the id of the asking process; returns what JSON can represent, or Held.
Raises FleetError with a sentence."""


class LocalSocket:
    """Answers the requests of this process' user."""

    def __init__(self, folder: Path, name: str, answers: Mapping[str, Answer]) -> None:
        """folder is the state folder; answers are by the request's `do`."""
        self.path = folder / FOLDER / f"{name}.sock"
        self._answers = answers
        self._places = threading.BoundedSemaphore(_MAX_ASKING)
        self._listener: socket.socket | None = None

    def start(self) -> bool:
        """Listen, on a thread; False, and a line in the log, where the folder allows no socket."""
        try:
            self._listener = _listen(self.path)
        except OSError as exc:
            log.warning("local_socket_unavailable", path=str(self.path), reason=str(exc))
            return False
        threading.Thread(target=self._accept, name="local-socket", daemon=True).start()
        return True

    def stop(self) -> None:
        """Listen no more, and remove the socket."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
            listener.close()

    def _accept(self) -> None:
        while (listener := self._listener) is not None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(_READ_SECONDS)
                line = _read_line(connection)
                with self._place():
                    self._handle(connection, line)
            except FleetError as exc:
                _say(connection, {"refused": str(exc)})
            except OSError:
                pass  # it only looked whether somebody listens, or has gone
            except Exception as exc:
                log.exception("local_request_failed")
                _say(connection, {"refused": f"{type(exc).__name__}: {exc}"})

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise LocalRefused(f"{_MAX_ASKING} requests are under way: wait for one to end")
        try:
            yield
        finally:
            self._places.release()

    def _handle(self, connection: socket.socket, line: bytes) -> None:
        pid, uid = _who(connection)
        if uid not in (None, 0, os.getuid()):
            raise LocalRefused("only the user that this process runs as may ask, and root")
        request = orjson.loads(line)
        answer = self._answers.get(str(request.get("do")))
        if answer is None:
            raise LocalRefused(f"this process knows no request {request.get('do')!r}")
        log.info("local_request", do=request["do"], by_pid=pid)
        found = answer(request, pid)
        if not isinstance(found, Held):
            _say(connection, {"answer": found})
            return
        try:
            _say(connection, {"answer": found.answer})
            connection.settimeout(found.seconds)
            connection.recv(1)  # returns when the other side has closed
        finally:
            found.release()


def _say(connection: socket.socket, said: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(orjson.dumps(said) + b"\n")


@contextlib.contextmanager
def asked(
    path: Path, request: Mapping[str, Any], timeout_seconds: float
) -> Iterator[socket.socket]:
    """Send a request to this socket; what it allows lasts until the block ends.

    Raises LocalRefused where nobody listens, or the socket is another user's.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_seconds)
        try:
            with _short(path) as address:
                connection.connect(address)
            connection.sendall(orjson.dumps(request) + b"\n")
        except PermissionError as exc:
            raise LocalRefused(
                f"{path} is another user's: run this as the user of that process, or as root"
            ) from exc
        except OSError as exc:
            raise LocalRefused(f"nobody answers at {path}: {exc.strerror or exc}") from exc
        yield connection


def read_answer(connection: socket.socket) -> Any:
    """The answer to what was asked on it; raises LocalRefused with the process' reason."""
    try:
        said = orjson.loads(_read_line(connection))
    except (OSError, orjson.JSONDecodeError) as exc:
        raise LocalRefused(f"the process did not answer: {exc}") from exc
    if "refused" in said:
        raise LocalRefused(said["refused"])
    return said["answer"]


def is_listening(path: Path) -> bool:
    """Whether a process answers there; the socket of one that was killed is removed."""
    try:
        with socket.socket(socket.AF_UNIX) as probe, _short(path) as address:
            probe.connect(address)
    except ConnectionRefusedError:
        with contextlib.suppress(OSError):
            path.unlink()
        return False
    except PermissionError:
        return True  # somebody else's; asking says so
    except OSError:
        return False
    return True


def _listen(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = path.parent.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise PermissionError(f"{path.parent} must be this user's own, with mode 0700")
    for old in path.parent.glob("*.sock"):
        is_listening(old)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        with _short(path) as address:
            listener.bind(address)
        path.chmod(0o600)
        listener.listen(_MAX_ASKING)
    except OSError:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """An address for this path; on Linux also for one above the 107 bytes that the kernel takes."""
    if not sys.platform.startswith("linux"):
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _who(connection: socket.socket) -> tuple[int, int | None]:
    """Process and user on the other side; 0 and None where the system does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return 0, None
    found = connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(found)
    return pid, uid


def _read_line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(_MAX_LINE_BYTES)
        if not part:
            raise ConnectionError("it closed the connection")
        line += part
        if len(line) > _MAX_LINE_BYTES:
            raise LocalRefused("the line is too long")
    return line
