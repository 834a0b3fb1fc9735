"""The requests of `/v1/webhooks` as values, for both clients; and how a receiver verifies."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from .calls import Call
from .errors import ClientError

__all__ = ("WebhookInvalid", "verify_webhook")

_PATH = "/v1/webhooks"


class WebhookInvalid(ClientError):
    """What came is not what the fleet has sent, or it is too old."""


def verify_webhook(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance_seconds: float = 300.0,
) -> None:
    """Raise WebhookInvalid unless this body and its headers were signed with this whsec_ secret.

    body are the very bytes that came. Compare `webhook-id` with those already handled: a webhook
    may come twice.
    """
    found = {name.lower(): value for name, value in headers.items()}
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        message_id, stamp = found["webhook-id"], found["webhook-timestamp"]
        age = time.time() - int(stamp)
        signatures = found["webhook-signature"].split()
    except (KeyError, ValueError, binascii.Error):
        raise WebhookInvalid("its webhook- headers, or the secret, are not of that form") from None
    if abs(age) > tolerance_seconds:
        raise WebhookInvalid("it was signed too long ago, or this machine's clock is wrong")
    content = f"{message_id}.{stamp}.".encode() + body
    expected = base64.b64encode(hmac.digest(key, content, hashlib.sha256))
    if not any(hmac.compare_digest(b"v1," + expected, one.encode()) for one in signatures):
        raise WebhookInvalid("no signature of it is by this secret")


def create(fields: Mapping[str, Any]) -> Call:
    """Register an endpoint."""
    return Call("POST", _PATH, {"json": dict(fields)}, repeatable=False)


def listed() -> Call:
    """The tenant's endpoints."""
    return Call("GET", _PATH)


def get(webhook: str) -> Call:
    """One endpoint."""
    return Call("GET", _of(webhook))


def update(webhook: str, fields: Mapping[str, Any]) -> Call:
    """Change an endpoint."""
    return Call("PATCH", _of(webhook), {"json": dict(fields)})


def delete(webhook: str) -> Call:
    """Remove an endpoint."""
    return Call("DELETE", _of(webhook), repeatable=False)


def rotate(webhook: str | None, secret: str | None) -> Call:
    """A new secret; of URLs that jobs name, without an endpoint."""
    path = f"{_PATH}/secret" if webhook is None else f"{_of(webhook)}/rotate"
    return Call("POST", path, {"json": {"secret": secret}}, repeatable=False)


def ping(webhook: str) -> Call:
    """Send it a ping."""
    return Call("POST", f"{_of(webhook)}/ping", repeatable=False)


def deliveries(wanted: Mapping[str, Any]) -> Call:
    """What was sent."""
    params = {name: value for name, value in wanted.items() if value is not None}
    return Call("GET", f"{_PATH}/deliveries", {"params": params})


def delivery(delivery_id: str) -> Call:
    """One of it."""
    return Call("GET", f"{_PATH}/deliveries/{quote(delivery_id, safe='')}")


def replay(ids: Sequence[str] | None, wanted: Mapping[str, Any]) -> Call:
    """Send it again."""
    body = {"ids": None if ids is None else list(ids), **wanted}
    return Call("POST", f"{_PATH}/deliveries/replay", {"json": body}, repeatable=False)


def _of(webhook: str) -> str:
    if not webhook:  # would be the path of the list
        raise ValueError("an endpoint's id is not empty")
    return f"{_PATH}/{quote(webhook, safe='')}"
