"""Endpoints of webhooks and what was sent to them. For both clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

from . import webhook_calls as calls
from .calls import Call

__all__ = ("AsyncWebhookOperations", "WebhookOperations")


class WebhookOperations(ABC):
    """Of `Client`."""

    @abstractmethod
    def _call(self, call: Call) -> Any: ...

    def create_webhook(
        self,
        url: str,
        *,
        events: Sequence[str] | None = None,
        description: str = "",
        **fields: Any,
    ) -> dict[str, Any]:
        """Register an endpoint; `secret` in the answer is shown this once.

        events of None are all. fields: signature (v1 or v1a), secret, local.
        """
        named = {"url": url, "events": events, "description": description, **fields}
        return cast("dict[str, Any]", self._call(calls.create(named)))

    def list_webhooks(self) -> list[dict[str, Any]]:
        """The tenant's endpoints."""
        found: list[dict[str, Any]] = (self._call(calls.listed()))["webhooks"]
        return found

    def get_webhook(self, webhook: str) -> dict[str, Any]:
        """One endpoint."""
        return cast("dict[str, Any]", self._call(calls.get(webhook)))

    def update_webhook(self, webhook: str, **fields: Any) -> dict[str, Any]:
        """Change an endpoint's url, events, description, or whether it is enabled."""
        return cast("dict[str, Any]", self._call(calls.update(webhook, fields)))

    def delete_webhook(self, webhook: str) -> None:
        """Remove an endpoint; what is on its way to it is not sent."""
        self._call(calls.delete(webhook))

    def rotate_webhook(
        self, webhook: str | None = None, secret: str | None = None
    ) -> dict[str, Any]:
        """A new secret, shown this once; without an endpoint, that of URLs that jobs name."""
        return cast("dict[str, Any]", self._call(calls.rotate(webhook, secret)))

    def ping_webhook(self, webhook: str) -> None:
        """Send it `webhook.ping`; list_deliveries says how it went."""
        self._call(calls.ping(webhook))

    def list_deliveries(
        self,
        *,
        state: str | None = None,
        endpoint: str | None = None,
        type: str | None = None,
        subject: str | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """What was sent and how it went, newest first; state is pending, delivered or dead."""
        wanted = {"state": state, "endpoint": endpoint, "type": type, "subject": subject}
        call = calls.deliveries({**wanted, "limit": limit})
        found: list[dict[str, Any]] = (self._call(call))["deliveries"]
        return found

    def get_delivery(self, delivery_id: str) -> dict[str, Any]:
        """One delivery with its attempts."""
        return cast("dict[str, Any]", self._call(calls.delivery(delivery_id)))

    def replay_deliveries(self, ids: Sequence[str] | None = None, **wanted: Any) -> int:
        """Send these again, or all that match state, endpoint, type and subject; how many."""
        return int((self._call(calls.replay(ids, wanted)))["deliveries"])


class AsyncWebhookOperations(ABC):
    """Of `AsyncClient`."""

    @abstractmethod
    async def _call(self, call: Call) -> Any: ...

    async def create_webhook(
        self,
        url: str,
        *,
        events: Sequence[str] | None = None,
        description: str = "",
        **fields: Any,
    ) -> dict[str, Any]:
        """Register an endpoint; `secret` in the answer is shown this once.

        events of None are all. fields: signature (v1 or v1a), secret, local.
        """
        named = {"url": url, "events": events, "description": description, **fields}
        return cast("dict[str, Any]", await self._call(calls.create(named)))

    async def list_webhooks(self) -> list[dict[str, Any]]:
        """The tenant's endpoints."""
        found: list[dict[str, Any]] = (await self._call(calls.listed()))["webhooks"]
        return found

    async def get_webhook(self, webhook: str) -> dict[str, Any]:
        """One endpoint."""
        return cast("dict[str, Any]", await self._call(calls.get(webhook)))

    async def update_webhook(self, webhook: str, **fields: Any) -> dict[str, Any]:
        """Change an endpoint's url, events, description, or whether it is enabled."""
        return cast("dict[str, Any]", await self._call(calls.update(webhook, fields)))

    async def delete_webhook(self, webhook: str) -> None:
        """Remove an endpoint; what is on its way to it is not sent."""
        await self._call(calls.delete(webhook))

    async def rotate_webhook(
        self, webhook: str | None = None, secret: str | None = None
    ) -> dict[str, Any]:
        """A new secret, shown this once; without an endpoint, that of URLs that jobs name."""
        return cast("dict[str, Any]", await self._call(calls.rotate(webhook, secret)))

    async def ping_webhook(self, webhook: str) -> None:
        """Send it `webhook.ping`; list_deliveries says how it went."""
        await self._call(calls.ping(webhook))

    async def list_deliveries(
        self,
        *,
        state: str | None = None,
        endpoint: str | None = None,
        type: str | None = None,
        subject: str | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """What was sent and how it went, newest first; state is pending, delivered or dead."""
        wanted = {"state": state, "endpoint": endpoint, "type": type, "subject": subject}
        call = calls.deliveries({**wanted, "limit": limit})
        found: list[dict[str, Any]] = (await self._call(call))["deliveries"]
        return found

    async def get_delivery(self, delivery_id: str) -> dict[str, Any]:
        """One delivery with its attempts."""
        return cast("dict[str, Any]", await self._call(calls.delivery(delivery_id)))

    async def replay_deliveries(self, ids: Sequence[str] | None = None, **wanted: Any) -> int:
        """Send these again, or all that match state, endpoint, type and subject; how many."""
        return int((await self._call(calls.replay(ids, wanted)))["deliveries"])
