"""Receives notifications of new work, without popping it, and of cancels, commands and starved
tenants.

One pair of connections serves every lane and band: the server tracks which keys the first
connection read (`CLIENT TRACKING`) and notifies the second when one changes. A blocking
BLMOVE of a list onto itself would also work, but needs a connection per lane and band,
transfers the whole message, and is refused at maxmemory and on a replica.

Notifications are best effort; the waiting thread must also check the lanes periodically.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

from redis import Redis
from redis.connection import Connection
from redis.exceptions import RedisError, ResponseError

from common.redis.keys import (
    CANCELED_CHANNEL,
    CONTROL_CHANNEL,
    STARVED_CHANNEL,
    meta_key,
    scoped_channel,
)
from common.redis.refusals import tell_refusal
from common.redis.trouble import TROUBLE

_INVALIDATED = "__redis__:invalidate"
_POLLED = "the lanes are looked at fifty times a second instead"
_CHANNELS = {
    CANCELED_CHANNEL: "a canceled job that runs already runs to its end, for nothing",
    CONTROL_CHANNEL: "this worker cannot be told to load or unload a model",
    STARVED_CHANNEL: "a tenant without a turn is noticed a moment later",
}
"""Our channels, and what follows where the server does not let us listen."""
_RECONNECT_SECONDS = 0.5
_HEAR_SECONDS = 1.0
_PING_SECONDS = 5.0
"""After this many seconds without a message the listening connection is pinged."""


class Notifier:
    """Calls `on_work(lane)` when an armed lane may have work; with None for all lanes.

    The callables run on the notifier's thread.
    """

    def __init__(
        self,
        connect: Callable[[], Redis],
        bands: Mapping[str, tuple[str, ...]],
        on_work: Callable[[str | None], None],
        on_canceled: Callable[[str, bytes], None],
        on_command: Callable[[bytes], None],
        on_starved: Callable[[str], None],
        database: int = 0,
        keepalive_seconds: float = _PING_SECONDS,
    ) -> None:
        """database is the number of the one that `connect` leads to; keepalive_seconds is how
        long listening may be silent, if less than its own time.
        """
        self._ping_seconds = min(_PING_SECONDS, keepalive_seconds)
        self._connect = connect
        self._bands = bands
        self._lane_of = {key.encode(): lane for lane, keys in bands.items() for key in keys}
        self._on_work = on_work
        self._on_canceled = on_canceled
        self._on_command = on_command
        self._on_starved = on_starved
        self._channels = {_INVALIDATED: _POLLED} | {
            scoped_channel(name, database): consequence for name, consequence in _CHANNELS.items()
        }
        self._canceled = scoped_channel(CANCELED_CHANNEL, database).encode()
        self._control = scoped_channel(CONTROL_CHANNEL, database).encode()
        self._starved = scoped_channel(STARVED_CHANNEL, database).encode()
        self._reader = self._new_connection()
        self._redirect_to: int | None = None
        self._asked_for: int | None = None
        """What was asked for last, granted or not: who was refused need not ask again."""
        self._tracking_to: int | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="notifier", daemon=True)

    @property
    def is_told(self) -> bool:
        """Whether the server sends notifications; when not, the caller must poll often."""
        return self._tracking_to is not None

    def start(self) -> None:
        """Start the listening thread."""
        self._thread.start()

    def stop(self) -> None:
        """Signal the thread to end; returns at once."""
        self._stopping.set()

    def arm(self, lanes: Iterable[str]) -> set[str]:
        """Check these lanes; returns those that have work. The others are armed.

        Called from one thread only. Raises RedisError when Redis cannot be reached.
        """
        names = list(lanes)
        reader = self._reader
        try:
            if not reader.is_connected:
                self._tracking_to = self._asked_for = None
                reader.connect()
            self._track(reader)
            commands = [("EXISTS", *self._bands[name]) for name in names]
            reader.send_packed_command(reader.pack_commands(commands))
            found = [reader.read_response() for _ in names]
        except (RedisError, OSError):
            self._tracking_to = self._asked_for = None
            reader.disconnect()
            raise
        return {name for name, count in zip(names, found, strict=True) if count}

    def _track(self, reader: Connection) -> None:
        """Redirect change notifications for the keys read here to the listening connection."""
        target = self._redirect_to
        if target == self._asked_for:
            return
        self._tracking_to = None
        commands: list[tuple[str, ...]] = [("CLIENT", "TRACKING", "OFF")]
        if target is not None:
            commands.append(("CLIENT", "TRACKING", "ON", "REDIRECT", str(target)))
        reader.send_packed_command(reader.pack_commands(commands))
        refused = None
        for _ in commands:  # read every reply: one left unread would be read as the next command's
            try:
                reader.read_response()
            except ResponseError as exc:
                refused = exc
        self._asked_for = target
        if refused is not None:
            tell_refusal("CLIENT TRACKING", _POLLED, refused)
            return
        self._tracking_to = target

    def _listen(self) -> None:
        while not self._stopping.is_set():
            connection = self._new_connection()
            try:
                self._redirect_to = self._subscribe(connection)
                self._on_work(None)  # notifications sent during the disconnect were lost
                self._listen_on(connection)
            except (RedisError, OSError) as exc:
                TROUBLE.note("listening", exc)
            finally:
                self._redirect_to = None
                connection.disconnect()
            self._stopping.wait(_RECONNECT_SECONDS)

    def _listen_on(self, connection: Connection) -> None:
        """Read messages until the stop; raises when the connection is dead, half-open included."""
        heard, pinged = time.monotonic(), False
        while not self._stopping.is_set():
            if connection.can_read(timeout=_HEAR_SECONDS):
                self._hear(connection.read_response())
                heard, pinged = time.monotonic(), False
            elif time.monotonic() - heard > self._ping_seconds * 2:
                raise ConnectionError("the server is silent")
            elif time.monotonic() - heard > self._ping_seconds and not pinged:
                connection.send_command("PING", check_health=False)
                pinged = True

    def _new_connection(self) -> Connection:
        connection: Connection = self._connect().connection_pool.make_connection()  # type: ignore[assignment]  # redis-py types the interface
        return connection

    def _subscribe(self, connection: Connection) -> int | None:
        """Listen to all that we may; returns whom tracking may tell, or None."""
        connection.connect()
        connection.send_command("CLIENT", "ID")
        client_id: int | None = None
        try:
            client_id = int(connection.read_response())
        except ResponseError as exc:
            tell_refusal("CLIENT ID", _POLLED, exc)
        connection.send_command("PUBLISH", meta_key("-"), "")  # the scripts do not say
        try:
            connection.read_response()
        except ResponseError as exc:
            tell_refusal("PUBLISH", "nobody is told of results; Celery clients wait in vain", exc)
        try:
            connection.send_command("SUBSCRIBE", *self._channels)
            for _ in self._channels:
                connection.read_response()
        except ResponseError:  # of one forbidden channel, for the whole command
            allowed = self._subscribe_one_by_one(connection)
            return client_id if _INVALIDATED in allowed else None
        return client_id

    def _subscribe_one_by_one(self, connection: Connection) -> set[str]:
        allowed = set()
        for channel, consequence in self._channels.items():
            connection.send_command("SUBSCRIBE", channel)
            try:
                connection.read_response()
                allowed.add(channel)
            except ResponseError as exc:
                tell_refusal(f"SUBSCRIBE {channel}", consequence, exc)
        return allowed

    def _hear(self, message: object) -> None:
        if not isinstance(message, list) or message[0] != b"message":
            return
        if message[1] == self._canceled:
            lane, _, tag = message[2].partition(b" ")
            self._on_canceled(lane.decode(errors="replace"), tag)
            return
        if message[1] == self._control:
            self._on_command(message[2])
            return
        if message[1] == self._starved:
            self._on_starved(message[2].decode(errors="replace"))
            return
        keys = message[2]
        lanes = {self._lane_of.get(key) for key in keys} if isinstance(keys, list) else {None}
        for lane in lanes:
            self._on_work(lane)
