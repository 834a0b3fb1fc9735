"""Checks URLs that clients choose: their form, and which addresses are public.

Both inputs fetched by URL and webhooks follow these rules. The form is strict, so that no two
parsers of a URL can find two different hosts in it: ASCII only, no user name, an IPv4 address
as four decimal numbers or not at all. An address is checked against the lists below, as
`ipaddress.is_global` differs between Python versions and calls some tunnels to private
addresses global: IPv4 addresses embedded in IPv6 ones are extracted and checked too. Pure: no
name is resolved here (common/net/outbound.py does).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from urllib.parse import urlsplit

from common.errors import UrlRefused

__all__ = ("Address", "AddressRules", "Network", "Target", "embedded", "is_public", "parse_target")

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL_LENGTH = 4096
_PORTS = {"http": 80, "https": 443}
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

_NOT_PUBLIC_V4: tuple[IPv4Network, ...] = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches the host itself
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's platform service, though it looks public
        "169.254.0.0/16",  # link-local, and the clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""The allocated range; it excludes loopback, private, link-local, multicast, NAT64, mapped."""
_NOT_PUBLIC_V6: tuple[IPv6Network, ...] = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)

_V4_AT_THE_END: tuple[IPv6Network, ...] = tuple(
    IPv6Network(text)
    for text in (
        "::/96",  # IPv4-compatible
        "::ffff:0:0/96",  # IPv4-mapped
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64 within one network
    )
)
_SIX_TO_FOUR = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
_LOW = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a URL of the required form."""

    scheme: str
    host: str
    """Lower case, without brackets and without a dot at its end."""
    port: int
    path: str
    """The path with the query, as it is sent."""

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def parse_target(url: str) -> Target:
    """Parse a URL; raises UrlRefused with a sentence that says what to send instead."""
    if len(url) > MAX_URL_LENGTH:
        raise UrlRefused(f"the URL is longer than {MAX_URL_LENGTH} characters")
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise UrlRefused(
            "the URL has spaces, backslashes or characters outside of ASCII; percent-encode its "
            "path, and write a name in its xn-- form"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UrlRefused("the URL cannot be read; its host or port is malformed") from None
    if parts.scheme not in _PORTS:
        raise UrlRefused("the URL must begin with http:// or https://")
    if "@" in parts.netloc:
        raise UrlRefused("the URL has a user name or password; leave them out")
    if port == 0:
        raise UrlRefused("the URL names port 0, which is none")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(
        parts.scheme, _checked_host(host, parts.netloc), port or _PORTS[parts.scheme], path
    )


def _checked_host(host: str, netloc: str) -> str:
    if netloc.startswith("["):
        try:
            address = IPv6Address(host)
        except ValueError:
            raise UrlRefused("what stands in brackets is not an IPv6 address") from None
        if address.scope_id is not None:
            raise UrlRefused("an address with a zone (%eth0) leads to this machine's links only")
        return str(address)
    host = host.removesuffix(".")
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise UrlRefused("the URL has no host, or one that is not a name of letters and digits")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise UrlRefused(
                "write an IPv4 address as four decimal numbers without leading zeros"
            ) from None
    return host


def is_public(address: Address) -> bool:
    """Whether the address is a public unicast address, and not a tunnel to another address."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if address not in _GLOBAL_UNICAST or _is_isatap(address):
        return False
    return not any(address in network for network in _NOT_PUBLIC_V6)


def embedded(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses embedded in an IPv6 address."""
    bits = int(address)
    if isinstance(address, IPv4Address) or bits <= 1:  # :: and ::1 embed none
        return
    if any(address in network for network in _V4_AT_THE_END) or _is_isatap(address):
        yield IPv4Address(bits & _LOW)
    if address in _SIX_TO_FOUR:
        yield IPv4Address(bits >> 80 & _LOW)
    if address in _TEREDO:
        yield IPv4Address(bits >> 64 & _LOW)
        yield IPv4Address(~bits & _LOW)


def _is_isatap(address: IPv6Address) -> bool:
    return int(address) >> 32 & _LOW in _ISATAP


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Which addresses may be connected to: public ones at these ports, and the allowed networks."""

    ports: Sequence[int] = (80, 443)
    allowed: Sequence[Network] = ()

    def permit(self, address: str, port: int) -> bool:
        """Whether this address, as the resolver returned it, and all embedded in it are allowed."""
        try:
            judged = ip_address(address)
        except ValueError:
            return False
        if getattr(judged, "scope_id", None) is not None:
            return False
        return all(self._permit(one, port) for one in (judged, *embedded(judged)))

    def _permit(self, address: Address, port: int) -> bool:
        if any(address in network for network in self.allowed):
            return True
        return port in self.ports and is_public(address)


def parse_networks(value: object) -> object:
    """Parse an operator's list of networks, `10.1.0.0/16,fd00:1::/64`; raises ValueError.

    A value that is not text is returned unchanged.
    """
    if not isinstance(value, str):
        return value
    return tuple(ip_network(word.strip()) for word in value.split(",") if word.strip())
