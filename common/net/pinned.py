"""aiohttp for hosts that clients choose: connects only to addresses that were checked.

By the rules of addresses.py, as outbound.py has it for inputs: a name is resolved once a
connection, all of its addresses must pass, and the connection is made to one of these. aiohttp
asks no resolver for literal addresses, so those are checked before.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from common.errors import UrlRefused
from common.net.addresses import AddressRules, Target, is_public
from common.net.outbound import NOT_FROM_HERE, Resolve, is_address, machine_resolve

__all__ = ("PinnedResolver",)

_MOST_INSIDE = 10_000
"""Names that led inside; with so many, each is taken for one."""


class PinnedResolver(AbstractResolver):
    """Resolves names to checked addresses; raises UrlRefused, or OSError."""

    def __init__(self, rules: AddressRules, resolve: Resolve | None = None) -> None:
        """A resolve of None uses the machine's resolver."""
        self._rules = rules
        self._resolve = resolve or machine_resolve
        self._inside: set[str] = set()

    def check_literal(self, target: Target) -> None:
        """Raise UrlRefused for a literal address that the rules refuse; names are checked later."""
        if is_address(target.host) and not self._rules.permit(target.host, target.port):
            raise UrlRefused(NOT_FROM_HERE)

    def leads_inside(self, target: Target) -> bool:
        """Whether the target is in a network that only the operator's list permits."""
        if target.host in self._inside or len(self._inside) >= _MOST_INSIDE:
            return True
        return is_address(target.host) and not is_public(ip_address(target.host))

    def _remember(self, host: str) -> None:
        """Note that it led inside: for good, as a connection from then outlives what DNS says."""
        if len(self._inside) < _MOST_INSIDE:
            self._inside.add(host)

    async def resolve(
        self, host: str, port: int = 0, family: Any = socket.AF_INET
    ) -> list[ResolveResult]:
        """All addresses of the host, once all have passed."""
        del family
        try:
            addresses = await self._resolve(host, port)
        except socket.gaierror as exc:
            if exc.errno == socket.EAI_AGAIN:
                raise
            raise UrlRefused(NOT_FROM_HERE) from exc
        if not addresses or not all(self._rules.permit(one, port) for one in addresses):
            raise UrlRefused(NOT_FROM_HERE)
        if not all(is_public(ip_address(one)) for one in addresses):
            self._remember(host)
        return [_result(host, one, port) for one in addresses]

    async def close(self) -> None:
        """Nothing is open."""


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(
        hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
    )
