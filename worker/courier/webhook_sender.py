"""Sends one delivery: an HTTP POST to a checked address, and what its answer means.

No redirects, cookies, proxies of the environment or decompression. Of the answer no more is read
than the bound, and no more kept than its first characters; none of it where the receiver is in a
network that only the operator's list permits, as tenants must not read there what we can.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from contextlib import AbstractAsyncContextManager, nullcontext
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import aiohttp
from yarl import URL

from common.errors import UrlRefused
from common.net.addresses import AddressRules, Target, parse_target
from common.net.loopback import is_loopback
from common.net.outbound import Resolve, is_address
from common.net.pinned import PinnedResolver
from common.settings import WebhookSettings
from common.webhooks.deliveries import Attempt
from common.webhooks.signing import sign

_ANSWER_CHARACTERS = 200
_IDLE_SECONDS = 15.0
TURN_SECONDS = 1.0
"""A delivery that waits for its host holds a place that another host's could have."""
_MAX_HOSTS = 10_000
_GONE = 410


class Sent(NamedTuple):
    """One attempt, and what follows."""

    attempt: Attempt
    delivered: bool
    gone: bool = False
    """Whether the receiver says that nothing must be sent to it any more."""
    retry_after_seconds: float | None = None


_ANYWHERE: AbstractAsyncContextManager[None] = nullcontext()


class _KnownUrl(NamedTuple):
    """What a URL leads to: the same each time, but for what DNS says of a name."""

    target: Target
    url: URL
    refused: str
    """Why a literal address is not called; else empty."""
    loopback: bool
    inside: bool | None
    """Whether a literal address is in a network that only the operator's list permits; None for a
    name.
    """


class HostBusyError(Exception):
    """Its host has as many deliveries in hand as it may have: it is slow, and others are to be
    served meanwhile.
    """


class WebhookSender:
    """Sends deliveries in one event loop."""

    def __init__(self, settings: WebhookSettings, *, resolve: Resolve | None = None) -> None:
        self._settings = settings
        rules = AddressRules(settings.webhook_ports, settings.webhook_allow)
        self._resolver = PinnedResolver(rules, resolve)
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(settings.webhook_host_concurrency)
        )
        self._next_at: dict[str, float] = {}
        self._urls: dict[str, _KnownUrl] = {}
        self._session: aiohttp.ClientSession | None = None
        self.waiting: Counter[str] = Counter()
        """Deliveries that wait for a turn at their host."""

    async def start(self) -> None:
        """Open the pool of connections."""
        settings = self._settings
        connector = aiohttp.TCPConnector(
            resolver=self._resolver,
            use_dns_cache=False,
            limit=settings.webhook_concurrency,
            limit_per_host=settings.webhook_host_concurrency,
            keepalive_timeout=_IDLE_SECONDS,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=settings.webhook_timeout_seconds),
            headers={"User-Agent": "lanefleet", "Accept": "*/*", "Accept-Encoding": "identity"},
        )

    async def stop(self) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()

    async def send(
        self,
        url: str,
        message_id: str,
        body: bytes,
        secrets: list[str],
        *,
        local: bool = False,
        place: AbstractAsyncContextManager[None] = _ANYWHERE,
    ) -> Sent:
        """One attempt; raises HostBusyError where there was none. local permits a literal loopback
        address; place is held while it is sent.
        """
        try:
            known = self._known_url(url)
        except UrlRefused as exc:
            return _not_sent(str(exc))
        if known.refused and not (local and known.loopback):
            return _not_sent(known.refused)
        async with self._turn(known.target), place:
            return await self._post(known, message_id, body, secrets, local)

    def _known_url(self, url: str) -> _KnownUrl:
        """Kept, as to parse addresses took an eighth of a delivery's time; raises UrlRefused."""
        found = self._urls.get(url)
        if found is None:
            if len(self._urls) >= _MAX_HOSTS:
                self._urls.clear()
            target, refused = parse_target(url), ""
            try:
                self._resolver.check_literal(target)
            except UrlRefused as exc:
                refused = str(exc)
            inside = self._resolver.leads_inside(target) if is_address(target.host) else None
            found = _KnownUrl(target, _url_of(target), refused, is_loopback(target.host), inside)
            self._urls[url] = found
        return found

    def _turn(self, target: Target) -> _Turn:
        if len(self._turns) > _MAX_HOSTS:
            self._turns.clear()
            self._next_at.clear()
        return _Turn(self, target.host)

    async def _post(
        self,
        known: _KnownUrl,
        message_id: str,
        body: bytes,
        secrets: list[str],
        local: bool,
    ) -> Sent:
        assert self._session is not None, "start first"
        began, at_ms = time.perf_counter(), _now_ms()
        timestamp = at_ms // 1000
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(secrets, message_id, timestamp, body),
        }
        status, answer, error, after = None, "", "", None
        try:
            async with self._session.post(
                known.url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
                after = retry_after(response.headers.get("Retry-After"))
                answer = await self._read(response)
                error = _error_of(status)
        except UrlRefused as exc:
            error = f"not sent: {exc}"
        except TimeoutError:
            error = f"no answer within {self._settings.webhook_timeout_seconds:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            if status is None or _error_of(status):
                error = _reason(exc)
        inside = known.inside
        if inside is None:
            inside = self._resolver.leads_inside(known.target)
        if inside and not local:
            answer = ""
        ms = round((time.perf_counter() - began) * 1000, 1)
        attempt = Attempt(at_ms, status, ms, answer, error)
        return Sent(attempt, not error, status == _GONE, after)

    async def _read(self, response: aiohttp.ClientResponse) -> str:
        limit = self._settings.webhook_answer_bytes
        left, first = limit, b""
        async for chunk in response.content.iter_any():
            if len(first) < _ANSWER_CHARACTERS:
                first += chunk[:_ANSWER_CHARACTERS]
            left -= len(chunk)
            if left < 0:
                response.close()  # the rest would be read before the connection is used again
                break
        text = first[:_ANSWER_CHARACTERS].decode("utf-8", "replace")
        return "".join(one if one.isprintable() else " " for one in text)


class _Turn:
    """One delivery's turn at its host: bounded in number, and in rate where that is set."""

    def __init__(self, sender: WebhookSender, host: str) -> None:
        self._sender = sender
        self._host = host

    async def __aenter__(self) -> None:
        sender, host = self._sender, self._host
        self._semaphore = sender._turns[host]
        sender.waiting[host] += 1
        try:
            if not self._semaphore.locked():
                await self._semaphore.acquire()
            else:
                async with asyncio.timeout(TURN_SECONDS):
                    await self._semaphore.acquire()
        except TimeoutError:
            raise HostBusyError from None
        finally:
            sender.waiting[host] -= 1
            if not sender.waiting[host]:
                del sender.waiting[host]
        try:
            await self._await_rate()
        except BaseException:
            self._semaphore.release()
            raise

    async def _await_rate(self) -> None:
        sender, host = self._sender, self._host
        if rate := sender._settings.webhook_host_per_second:
            now = time.monotonic()
            at = max(now, sender._next_at.get(host, 0.0))
            if at - now > TURN_SECONDS:
                raise HostBusyError
            sender._next_at[host] = at + 1 / rate
            await asyncio.sleep(at - now)

    async def __aexit__(self, *_: object) -> None:
        self._semaphore.release()


def _not_sent(why: str) -> Sent:
    return Sent(Attempt(_now_ms(), None, 0.0, "", f"not sent: {why}"), False)


def _url_of(target: Target) -> URL:
    """As it was checked: what is parsed again could be another host."""
    return URL(f"{target.scheme}://{target.authority}{target.path}", encoded=True)


def _error_of(status: int) -> str:
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return f"answered {status}; redirects are not followed, so register where it leads to"
    return f"answered {status}"


def _reason(exc: Exception) -> str:
    """Without addresses, which an internal resolver may know."""
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "its name cannot be resolved now"
    if isinstance(exc, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return "its certificate or TLS is not accepted"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return "it could not be reached"
    if isinstance(exc, aiohttp.ServerDisconnectedError | OSError):
        return "it closed the connection without an answer"
    return "its answer cannot be read"


def retry_after(value: str | None) -> float | None:
    """Its seconds, of a number or a date; None where it is neither. Pure but for the clock."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value.strip()[:12])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _now_ms() -> int:
    return int(time.time() * 1000)
