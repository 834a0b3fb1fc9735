"""Checks the Host header against the allowed names.

No link is built from it: links are absolute paths. The check protects an API on loopback, which
requires no key: a web page whose owner has its name resolve to 127.0.0.1 could otherwise make
its visitors' browsers send jobs.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from common.net.loopback import is_loopback

_REMEMBERED = 64
_HOST = re.compile(rb"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
_LOOPBACK_NAMES = ("localhost", "*.localhost")


class AllowedHosts:
    """Checks Host headers, and caches the last valid ones."""

    def __init__(self, names: Sequence[str], listening_on: str) -> None:
        local = not names and is_loopback(listening_on)
        self._addresses = local
        self._any = "*" in names or not (names or local)
        patterns = [*_LOOPBACK_NAMES, listening_on] if local else names
        self._exact = {name.lower() for name in patterns if not name.startswith("*.")}
        self._suffixes = tuple(name[1:].lower() for name in patterns if name.startswith("*."))
        self.good: set[bytes] = set()
        """Headers that were found valid; `in` this is the fastest check."""

    def __contains__(self, header: bytes) -> bool:
        if header in self.good:
            return True
        good = self._judge(header)
        if good and len(self.good) < _REMEMBERED:
            self.good.add(header)
        return good

    def _judge(self, header: bytes) -> bool:
        found = _HOST.fullmatch(header)
        if found is None:
            return False
        name = found.group(1).decode().lower().strip("[]")
        if self._any or name in self._exact or name.endswith(self._suffixes or ("\0",)):
            return True
        return self._addresses and _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
