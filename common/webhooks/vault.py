"""Keeps secrets in Redis: encrypted by AES-GCM where the operator set a key, else as they are."""

from __future__ import annotations

import base64
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.errors import FleetError

_SEALED, _PLAIN = "gcm:", "plain:"
_NONCE_BYTES = 12


class SecretUnreadable(FleetError):
    """A secret was encrypted with another key than LANEFLEET_WEBHOOK_KEY."""

    code = "secret_unreadable"


class Vault:
    """Seals and opens secrets."""

    def __init__(self, key: bytes | None) -> None:
        """key has 32 bytes; None keeps secrets as they are."""
        self._cipher = None if key is None else AESGCM(key)

    def seal(self, secret: str, owner: str) -> str:
        """The form in which it is kept; it opens for this owner alone."""
        if self._cipher is None:
            return _PLAIN + secret
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, secret.encode(), owner.encode())
        return _SEALED + base64.b64encode(sealed).decode()

    def open(self, kept: str, owner: str) -> str:
        """The secret; raises SecretUnreadable. One that was kept plainly is read with a key too."""
        if kept.startswith(_PLAIN):
            return kept.removeprefix(_PLAIN)
        raw = base64.b64decode(kept.removeprefix(_SEALED))
        try:
            if self._cipher is None:
                raise InvalidTag
            opened = self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], owner.encode())
        except InvalidTag:
            raise SecretUnreadable(
                "a webhook's secret was encrypted with another key; set LANEFLEET_WEBHOOK_KEY to "
                "the one it was made with, or rotate the secret"
            ) from None
        return opened.decode()
