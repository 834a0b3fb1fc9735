"""HTTP to hosts that clients choose: connects only to addresses that were checked.

A name is resolved once per connection. All of its addresses must pass the rules, as a name with
both an allowed and a refused address is an attack or a mistake, and the connection is made to
one of the checked addresses, not to the name: so a resolver that returns another address the
second time (DNS rebinding) has no effect. The Host header, SNI and the name in the certificate
stay those of the URL. Redirects are not followed, and the environment's proxies are not used, as
httpcore implements neither.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from typing import Any

import httpcore

from common.errors import UrlRefused
from common.net.addresses import AddressRules, Target

__all__ = (
    "NOT_FROM_HERE",
    "Outbound",
    "Resolve",
    "Unreachable",
    "is_address",
    "machine_resolve",
)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host and port to all addresses of the host; raises OSError."""

Unreachable = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)
"""Exceptions of a request that are caused by the remote side; a retry may succeed."""

_ADDRESSES_TRIED = 4
_IDLE_SECONDS = 5.0
NOT_FROM_HERE = (
    "its host has no address on the public internet, at a port, that this fleet connects to"
)


class Outbound:
    """A pool of connections to checked addresses, for one event loop."""

    def __init__(
        self,
        rules: AddressRules,
        *,
        step_seconds: float = 5.0,
        max_connections: int = 64,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """step_seconds bounds each of connecting, TLS, a write and a read; callers bound the whole.

        A resolve of None uses the machine's resolver.
        """
        self._timeout = dict.fromkeys(("connect", "read", "write"), step_seconds)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context or ssl.create_default_context(),
            max_connections=max_connections,
            max_keepalive_connections=max_connections // 2,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=_CheckedBackend(rules, resolve or machine_resolve),
        )

    @asynccontextmanager
    async def request(
        self,
        method: str,
        target: Target,
        headers: Iterable[tuple[str, str]] = (),
        content: bytes | None = None,
    ) -> AsyncIterator[httpcore.Response]:
        """Send a request; the body of the response has not been read yet.

        Raises UrlRefused where the rules refuse the URL, and then no connection was made; else
        one of Unreachable.
        """
        url = httpcore.URL(
            scheme=target.scheme.encode(),
            host=target.host.encode(),
            port=target.port,
            target=target.path.encode(),
        )
        sent: list[tuple[bytes, bytes]] = [(b"Host", target.authority.encode())]
        sent += [(name.encode(), value.encode()) for name, value in headers]
        extensions: dict[str, Any] = {"timeout": self._timeout}
        async with self._pool.stream(
            method, url, headers=sent, content=content, extensions=extensions
        ) as response:
            yield response

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections for httpcore, which passes names, and starts TLS on them itself."""

    def __init__(self, rules: AddressRules, resolve: Resolve) -> None:
        self._rules = rules
        self._resolve = resolve
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of the host that answers, once all addresses have passed."""
        error: Exception = httpcore.ConnectError("no address")
        for address in (await self._checked(host, port, timeout))[:_ADDRESSES_TRIED]:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                error = exc
        raise error

    async def _checked(self, host: str, port: int, seconds: float | None) -> Sequence[str]:
        try:
            async with asyncio.timeout(seconds):
                addresses = [host] if is_address(host) else await self._resolve(host, port)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout("the name was not resolved in time") from exc
        except socket.gaierror as exc:
            if exc.errno == socket.EAI_AGAIN:
                raise httpcore.ConnectError("the name cannot be resolved now") from exc
            raise UrlRefused(NOT_FROM_HERE) from exc
        except OSError as exc:
            raise httpcore.ConnectError("the name cannot be resolved now") from exc
        # The same message for a name without addresses, so that clients cannot probe what an
        # internal resolver knows.
        if not addresses or not all(self._rules.permit(one, port) for one in addresses):
            raise UrlRefused(NOT_FROM_HERE)
        return addresses


def is_address(host: str) -> bool:
    """Whether a host is a literal address, and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def machine_resolve(host: str, port: int) -> Sequence[str]:
    """All addresses from the machine's resolver, in its order, without duplicates.

    On a daemon thread per call, as a resolver may hang for half a minute, cannot be interrupted,
    and must not delay the end of the process.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Sequence[str]] = loop.create_future()

    def settle(found: Sequence[str], error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(found)

    def look_up() -> None:
        found: Sequence[str] = ()
        error: Exception | None = None
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        except Exception as exc:  # noqa: BLE001 - whoever waits for it must hear of it
            error = exc
        with suppress(RuntimeError):  # the loop ended meanwhile
            loop.call_soon_threadsafe(settle, found, error)

    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    return await future
