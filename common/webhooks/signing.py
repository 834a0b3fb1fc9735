"""Signatures and secrets of Standard Webhooks 1.0.0: `v1` is HMAC-SHA256, `v1a` Ed25519.

A secret says by its prefix which of the two it is for. What is signed is `id.timestamp.body`, of
the very bytes that are sent.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import InvalidInput

Scheme = Literal["v1", "v1a"]

HMAC_PREFIX, PRIVATE_PREFIX, PUBLIC_PREFIX = "whsec_", "whsk_", "whpk_"
_NEW_BYTES, _LEAST_BYTES, _MOST_BYTES = 32, 24, 64
_SEED_BYTES = 32


def new_secret(scheme: Scheme) -> str:
    """A random secret."""
    raw = secrets.token_bytes(_NEW_BYTES)
    if scheme == "v1":
        return HMAC_PREFIX + base64.b64encode(raw).decode()
    return PRIVATE_PREFIX + base64.b64encode(raw + _public(raw)).decode()


def check_secret(text: str) -> str:
    """A secret that a tenant brings; raises InvalidInput, which does not repeat it."""
    for prefix, lengths in (
        (HMAC_PREFIX, range(_LEAST_BYTES, _MOST_BYTES + 1)),
        (PRIVATE_PREFIX, (_SEED_BYTES, 2 * _SEED_BYTES)),
    ):
        if text.startswith(prefix):
            raw = _decoded(text)
            if raw is None or len(raw) not in lengths:
                break
            whole_key = prefix == PRIVATE_PREFIX and len(raw) == 2 * _SEED_BYTES
            if whole_key and raw[_SEED_BYTES:] != _public(raw[:_SEED_BYTES]):
                raise InvalidInput(
                    "`secret`: the halves of the whsk_ key do not belong together; send the first "
                    "32 bytes alone, or the key as it was made"
                )
            return text
    raise InvalidInput(
        "`secret`: send whsec_ and 24 to 64 bytes in base64, or whsk_ and an Ed25519 key of 32 or "
        "64 bytes in base64; or leave it out to have one made"
    )


def scheme_of(secret: str) -> Scheme:
    """What a secret is for."""
    return "v1a" if secret.startswith(PRIVATE_PREFIX) else "v1"


def public_key_of(secret: str) -> str | None:
    """What receivers verify `v1a` with; None for `v1`, where they need the secret."""
    if scheme_of(secret) == "v1":
        return None
    return PUBLIC_PREFIX + base64.b64encode(_public(_raw(secret)[:_SEED_BYTES])).decode()


def sign(secret_list: Iterable[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature a secret."""
    content = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join(_signature(one, content) for one in secret_list)


def _signature(secret: str, content: bytes) -> str:
    if scheme_of(secret) == "v1":
        raw = hmac.digest(_raw(secret), content, hashlib.sha256)
    else:
        raw = _private_key(secret).sign(content)
    return f"{scheme_of(secret)},{base64.b64encode(raw).decode()}"


@lru_cache(maxsize=1024)
def _raw(secret: str) -> bytes:
    return base64.b64decode(secret.partition("_")[2])


@lru_cache(maxsize=1024)
def _private_key(secret: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(_raw(secret)[:_SEED_BYTES])


def _public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def _decoded(secret: str) -> bytes | None:
    try:
        return base64.b64decode(secret.partition("_")[2], validate=True)
    except (binascii.Error, ValueError):
        return None
