"""Fetches inputs from URLs that clients send: within limits of size and time, with few tries.

The message of a failure contains nothing of the response: a fleet may be allowed to reach
internal networks, and must not let clients probe them.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from typing import Any

import httpcore
import structlog

from common.errors import InputTooLarge, InputUrlFailed, InputUrlRefused, UrlRefused
from common.net.addresses import AddressRules, parse_target
from common.net.outbound import Outbound, Resolve, Unreachable
from common.settings import FetchSettings

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 0.5
_STEP_SECONDS = 5.0
_HEADERS = (
    ("User-Agent", "lanefleet"),
    ("Accept", "*/*"),
    ("Accept-Encoding", "identity"),
)
_ZLIB_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class UrlInputs:
    """Fetches in one event loop, by the rules of common/net/addresses.py."""

    def __init__(
        self,
        settings: FetchSettings,
        *,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """None selects the machine's resolver and its trusted certificates."""
        self._settings = settings
        self._resolve = resolve
        self._ssl_context = ssl_context
        self._outbound: Outbound | None = None

    async def fetch(self, url: str) -> bytes:
        """Fetch the input at a URL.

        Raises InputUrlRefused, InputUrlFailed or InputTooLarge, each with a sentence.
        """
        seconds = self._settings.fetch_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._try_often(url)
        except UrlRefused as exc:
            raise InputUrlRefused(f"`input_url`: {exc}") from exc
        except TimeoutError as exc:
            raise InputUrlFailed(f"`input_url`: it was not there within {seconds:g} s") from exc

    async def _try_often(self, url: str) -> bytes:
        failure = InputUrlFailed("`input_url`: its server could not be reached")
        for attempt in range(self._settings.fetch_tries):
            if attempt:
                await asyncio.sleep(_PAUSE_SECONDS * attempt)
            try:
                return await self._get(url)
            except _Temporary as exc:
                failure = InputUrlFailed(str(exc))
            except Unreachable as exc:
                log.info("input_url_unreachable", error=str(exc), exc_type=type(exc).__name__)
        raise failure

    async def _get(self, url: str) -> bytes:
        target = parse_target(url)
        async with self._client().request("GET", target, _HEADERS) as response:
            _check_status(response.status)
            return await _read(response, self._settings.fetch_max_bytes)

    def _client(self) -> Outbound:
        """Created on first use: reading the machine's certificates is slow."""
        if self._outbound is None:
            settings = self._settings
            self._outbound = Outbound(
                AddressRules(settings.fetch_ports, settings.fetch_allow),
                step_seconds=min(_STEP_SECONDS, settings.fetch_seconds),
                max_connections=settings.fetch_concurrency,
                resolve=self._resolve,
                ssl_context=self._ssl_context,
            )
        return self._outbound


class _Temporary(Exception):
    """The server reported an error of its own; a retry may succeed."""


def _check_status(status: int) -> None:
    if status == 200:
        return
    if status >= 500:
        raise _Temporary(f"`input_url`: its server answered {status}, also when asked again")
    if 300 <= status < 400:
        raise InputUrlFailed(
            f"`input_url`: its server answered {status}; redirects are not followed, so send the "
            "address that it leads to"
        )
    raise InputUrlFailed(f"`input_url`: its server answered {status} instead of 200")


async def _read(response: httpcore.Response, limit: int) -> bytes:
    """Read the body, decompressed if the server compressed it unasked; never past the limit.

    The limit applies to the received bytes as well: an endless compressed stream may expand to
    nothing.
    """
    headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
    declared = headers.get(b"content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    inflater = _inflater(headers.get(b"content-encoding", ""))
    chunks: list[bytes] = []
    size = arrived = 0
    async for chunk in response.aiter_stream():
        arrived += len(chunk)
        if arrived > limit:
            raise _too_large(limit)
        part = _inflate(inflater, chunk, limit - size) if inflater else chunk
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        chunks.append(part)
    if inflater and not inflater.eof:
        raise InputUrlFailed("`input_url`: what its server compressed is cut off")
    return b"".join(chunks)


def _inflater(encoding: str) -> Any:
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    bits = _ZLIB_BITS.get(encoding)
    if bits is None:
        raise InputUrlFailed("`input_url`: its server sent an encoding that was not asked for")
    return zlib.decompressobj(bits)


def _inflate(inflater: Any, chunk: bytes, room: int) -> bytes:
    """Decompress at most one byte more than there is room for."""
    try:
        inflated: bytes = inflater.decompress(chunk, room + 1)
    except zlib.error as exc:
        raise InputUrlFailed("`input_url`: what its server compressed is corrupt") from exc
    if inflater.unused_data:
        raise InputUrlFailed("`input_url`: something follows what its server compressed")
    return inflated


def _too_large(limit: int) -> InputTooLarge:
    return InputTooLarge(f"`input_url`: what lies there is larger than {limit} bytes")
