"""One connection on which a process listens to channels, over its losses.

Whoever listens subscribes first, waits for the confirmation, and then reads what is stored: in that
order nothing is missed. After a lost connection all channels are subscribed to again, and whoever
listens is told, to read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import redis.asyncio
import structlog
from redis.asyncio.connection import Connection
from redis.exceptions import NoPermissionError

from common.redis.ending import end_tasks
from common.redis.refusals import tell_refusal
from common.redis.trouble import TROUBLE

log = structlog.get_logger(__name__)

PING_SECONDS = 10.0
_RECONNECT_SECONDS = 0.5
_CONFIRM_SECONDS = 2.0
"""Longest wait for the confirmation of a subscription."""


class Subscriptions:
    """The channels of one kind of listener."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        keepalive_seconds: float,
        hear: Callable[[str, bytes], None],
        on_lost: Callable[[], None],
        is_wanted: Callable[[str], bool],
        *,
        during: str,
        instead: str,
    ) -> None:
        """hear is called with each message and its channel, on_lost whenever some may have been
        missed. is_wanted: whether somebody still listens to a channel that another has left.
        during and instead are words for the log: what it does, and what is done where it may not.
        """
        self._pool = client.connection_pool
        self._ping_seconds = min(PING_SECONDS, keepalive_seconds)
        self._hear, self._on_lost, self._is_wanted = hear, on_lost, is_wanted
        self._during, self._instead = during, instead
        self._confirmed: dict[str, asyncio.Event] = {}
        self._left: set[str] = set()
        self._leaving: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self.connection: Connection | None = None
        self.is_deaf = False
        """Whether the server forbids us to subscribe."""
        self._heard = 0
        """Messages, for telling a silent connection."""

    @property
    def channels(self) -> frozenset[str]:
        """Those that it is subscribed to, or about to be."""
        return frozenset(self._confirmed)

    def start(self) -> None:
        """Start listening, in the running event loop; again is nothing."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name=self._during)

    async def stop(self) -> None:
        """Stop listening."""
        await end_tasks(self._listening)
        await end_tasks(self._leaving)

    def release(self) -> None:
        """Let go of whoever waits for a confirmation."""
        for confirmed in self._confirmed.values():
            confirmed.set()

    async def subscribe(self, *channels: str) -> None:
        """Listen to these too; returns before that is confirmed."""
        new = [channel for channel in channels if channel not in self._confirmed]
        for channel in new:
            self._confirmed[channel] = asyncio.Event()
        if new:
            await self._send("SUBSCRIBE", *new)

    def leave(self, channel: str) -> None:
        """Unsubscribe in the next turn of the loop: it delays no response, and many are batched."""
        self._left.add(channel)
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._unsubscribe())

    async def confirm(self, channels: Iterable[str], seconds: float = _CONFIRM_SECONDS) -> bool:
        """Wait, not for long, until all that is said on these channels is heard; whether it is."""
        missing = [one for name in channels if not (one := self._confirmed[name]).is_set()]
        if not missing or self.is_deaf:
            return not missing
        try:
            async with asyncio.timeout(max(0.0, min(seconds, _CONFIRM_SECONDS))):
                for confirmed in missing:
                    await confirmed.wait()
        except TimeoutError:
            log.warning("subscription_unconfirmed")
            return False
        return True

    async def _unsubscribe(self) -> None:
        try:
            await asyncio.sleep(0)
            while self._left:
                left, self._left = self._left, set()
                gone = [channel for channel in left if not self._is_wanted(channel)]
                for channel in gone:
                    self._confirmed.pop(channel, None)
                if gone:
                    await self._send("UNSUBSCRIBE", *gone)
        finally:
            self._leaving = None

    async def _send(self, *command: str) -> None:
        """Send, or have the connection replaced; the next one subscribes to all channels."""
        connection = self.connection
        if connection is None or not connection.is_connected:
            return
        try:
            await connection.send_command(*command)
        except Exception as exc:  # noqa: BLE001 - the listener closes it meanwhile in several ways
            TROUBLE.note(self._during, exc)
            with contextlib.suppress(Exception):
                await connection.disconnect(nowait=True)

    async def _listen(self) -> None:
        while True:
            connection: Connection = self._pool.make_connection()
            try:
                await connection.connect()
                self.connection = connection
                if self._confirmed:
                    await connection.send_command("SUBSCRIBE", *self._confirmed)
                await self._listen_on(connection)
            except NoPermissionError as exc:
                self.is_deaf = True
                tell_refusal("SUBSCRIBE", self._instead, exc)
            except Exception as exc:  # noqa: BLE001 - without it everybody would be deaf
                TROUBLE.note(self._during, exc)
            finally:
                self.connection = None
                for confirmed in self._confirmed.values():
                    confirmed.clear()
                with contextlib.suppress(Exception):
                    await connection.disconnect(nowait=True)
            self._on_lost()
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen_on(self, connection: Connection) -> None:
        """Read messages until the connection is dead. A timer for each would cost 6 us."""
        keeper = asyncio.create_task(self._keep_alive(connection))
        try:
            while True:
                self._take(await connection.read_response(timeout=math.inf))
        finally:
            await end_tasks(keeper)

    async def _keep_alive(self, connection: Connection) -> None:
        """Ping a silent connection, and end one that stays silent: then its reading fails."""
        while True:
            heard = self._heard
            await asyncio.sleep(self._ping_seconds)
            if self._heard != heard:
                continue
            await connection.send_command("PING")
            await asyncio.sleep(self._ping_seconds)
            if self._heard == heard:
                await connection.disconnect(nowait=True)

    def _take(self, message: Any) -> None:
        self._heard += 1
        if not isinstance(message, list) or len(message) < 3:
            return
        kind, channel = message[0], bytes(message[1]).decode()
        if kind == b"subscribe" and channel in self._confirmed:
            self._confirmed[channel].set()
            self.is_deaf = False
        elif kind == b"message":
            self._hear(channel, bytes(message[2]))
