"""One server over HTTP: whether it is healthy, and its streamed answers.

No redirects, no proxies, no cookies, no compression: it is asked where the catalog or its start
says, and what it sends is bounded in bytes and in time. Everything here runs on the server's loop,
but for `room`.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
import structlog

from common.errors import FleetError, InvalidInput, PromptTooLong, ServerFailed, ServerRefused
from worker.models.generation.server_child import Address
from worker.models.generation.server_circuit import Circuit
from worker.models.generation.server_engines import ENGINES
from worker.models.generation.server_events import message_of
from worker.models.generation.server_options import ServerOptions

log = structlog.get_logger(__name__)

_PROBE_SECONDS = 5.0
_LATE_PROBES = 3
_CONNECT_SECONDS = 10.0
_DOWN_LOOK_SECONDS = 0.25
_ERROR_BYTES = 65_536
_MODELS_BYTES = 2**20
_INPUT_STATUSES = frozenset({400, 413, 414, 422})
_BUSY_STATUSES = frozenset({429, 503})
_AGAIN_STATUSES = frozenset({408, 425}) | _BUSY_STATUSES
_TOO_LONG = re.compile(r"context[ _](length|size|window)|max_model_len", re.IGNORECASE)
"""How servers say that a prompt is too long; they have no status of its own for that."""
_HTTP_ERRORS = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


class Link:
    """The connection to one server."""

    def __init__(self, model: str, options: ServerOptions, api_key: str) -> None:
        self._model, self._options, self.secret = model, options, api_key
        self._session: aiohttp.ClientSession | None = None
        self._base = ""
        self._up = asyncio.Event()
        self._circuit = Circuit(options.slots)
        self._tell: list[Callable[[], None]] = []
        self._look_now = asyncio.Event()
        self._late = 0
        """Looks in a row that got no answer in time."""
        self.down_since = time.monotonic()
        """When it was last found not to be healthy, after it was."""

    @property
    def room(self) -> int:
        """Jobs that it may have at once, now. On any thread."""
        return self._circuit.room(time.monotonic()) if self._up.is_set() else 0

    @property
    def is_up(self) -> bool:
        """Whether it was healthy when last looked at. On any thread."""
        return self._up.is_set()

    def on_change(self, tell: Callable[[], None]) -> None:
        """Have this called, on the loop, when there may be other room."""
        self._tell.append(tell)

    def at(self, address: Address) -> None:
        """It is to be found here from now on."""
        if self._session is None or address.socket:
            self._session = self._new_session(address)
        self._base = address.url
        self._look_now.set()

    def _new_session(self, address: Address) -> aiohttp.ClientSession:
        if old := self._session:
            self._closing = asyncio.ensure_future(old.close())
        connector: aiohttp.BaseConnector
        if address.socket:
            connector = aiohttp.UnixConnector(path=address.socket, limit=0)
        else:
            connector = aiohttp.TCPConnector(limit=0)
        headers = {"User-Agent": "lanefleet", "Accept-Encoding": "identity"}
        if self.secret:
            headers["Authorization"] = f"Bearer {self.secret}"
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers=headers,
        )

    async def close(self) -> None:
        """Close its connections."""
        self._up.clear()
        if self._session is not None:
            await self._session.close()

    # -- health ------------------------------------------------------------

    async def look(self) -> None:
        """Look at its health, for ever: seldom while it is well, often while it is not."""
        while True:
            await self.probe()
            self._look_now.clear()
            pause = self._options.health_seconds
            pause = pause if self.is_up else min(pause, _DOWN_LOOK_SECONDS)
            try:
                await asyncio.wait_for(self._look_now.wait(), pause)
            except TimeoutError:
                continue

    async def probe(self) -> bool:
        """Ask for its health, and remember it. One that is slow to say is not ill at once."""
        healthy, late = False, 0
        path = ENGINES[self._options.engine].health
        try:
            async with self._get(path, _PROBE_SECONDS) as response:
                healthy = response.status == 200
        except TimeoutError:
            late = self._late + 1
            healthy = self.is_up and late < _LATE_PROBES
        except _HTTP_ERRORS:
            healthy = False
        self._late = late
        self._is(healthy)
        return healthy

    def ended(self) -> None:
        """Its process has ended."""
        self._is(False)

    def _is(self, healthy: bool) -> None:
        if healthy == self.is_up:
            return
        if healthy:
            self._circuit.recovered()
            self._up.set()
        else:
            self._up.clear()
            self.down_since = time.monotonic()
        log.info("server_healthy" if healthy else "server_unhealthy", model=self._model)
        self._changed()

    def _changed(self) -> None:
        for tell in self._tell:
            tell()

    async def until_up(self) -> None:
        """Wait until it is healthy."""
        await self._up.wait()

    async def model_and_context(self) -> tuple[str, int | None]:
        """The first model that it lists, and the longest prompt and answer of it where it says so.

        Raises ServerRefused where it lists none.
        """
        try:
            async with self._get("/v1/models", _PROBE_SECONDS) as response:
                body = await _read(response, _MODELS_BYTES)
            found = json.loads(body)["data"][0]
            name, context = found["id"], found.get("max_model_len")
        except (*_HTTP_ERRORS, LookupError, TypeError, RecursionError) as exc:
            raise ServerRefused(
                "the server lists no model at /v1/models; set options.model"
            ) from exc
        return str(name), context if type(context) is int and context > 0 else None

    @asynccontextmanager
    async def _get(self, path: str, seconds: float) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise OSError("it is nowhere to be found yet")
        timeout = aiohttp.ClientTimeout(total=seconds)
        async with self._session.get(
            f"{self._base}{path}", timeout=timeout, allow_redirects=False
        ) as response:
            yield response

    # -- requests ----------------------------------------------------------

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """The bytes of a streamed answer, as they come.

        Raises InvalidInput for a request that the server refuses as such, ServerRefused where it
        refuses ours altogether, and ServerFailed for everything that may be otherwise next time.
        """
        began, answers = time.monotonic(), False
        try:
            async with aclosing(self._stream(path, body)) as chunks:
                async for chunk in chunks:
                    if not answers:
                        answers = True
                        self._circuit.answers()
                    yield chunk
        except (InvalidInput, GeneratorExit):  # whoever has the end of an answer reads no further
            self._circuit.succeeded()
            raise
        except FleetError:
            raise
        except _HTTP_ERRORS as exc:
            self._failed(began)
            # What it says names hosts, which are no matter of clients; the log has it.
            name = type(exc).__name__
            raise ServerFailed(f"the connection to the model's server failed ({name})") from exc
        else:
            self._circuit.succeeded()

    async def _stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        if self._session is None:
            raise ServerFailed("the model's server has not started")
        options, total, began = self._options, 0, time.monotonic()
        timeout = aiohttp.ClientTimeout(
            total=options.answer_seconds,
            sock_connect=_CONNECT_SECONDS,
            sock_read=options.silence_seconds,
        )
        async with self._session.post(
            f"{self._base}{path}",
            json=body,
            timeout=timeout,
            allow_redirects=False,
            headers={"Accept": "text/event-stream"},
        ) as response:
            if response.status != 200:
                await self._refused(response, began)
            if response.content_type != "text/event-stream":
                raise ServerRefused(
                    f"the server answered with {response.content_type[:80]!r} where it was asked "
                    "to stream events"
                )
            async for chunk in response.content.iter_any():
                total += len(chunk)
                if total > options.max_answer_bytes:
                    raise ServerFailed(
                        f"the server sent more than {options.max_answer_bytes:,} bytes "
                        "(options.max_answer_bytes)"
                    )
                yield chunk

    async def _refused(self, response: aiohttp.ClientResponse, began: float) -> None:
        """Raise what this status means for the job."""
        status = response.status
        said = _said(await _read(response, _ERROR_BYTES), self.secret)
        if status in _INPUT_STATUSES:
            kind = PromptTooLong if _TOO_LONG.search(said) else InvalidInput
            raise kind(f"the model's server refused the request: {said}")
        sentence = f"the model's server answered {status}: {said}"
        if status < 500 and status not in _AGAIN_STATUSES:
            raise ServerRefused(sentence)
        error = ServerFailed(sentence)
        if status in _BUSY_STATUSES:
            error.busy_seconds = self._circuit.busy(time.monotonic(), _seconds(response))
            self._pause(error.busy_seconds)
        elif status >= 500:
            self._failed(began)
        raise error

    def _failed(self, began: float) -> None:
        self._pause(self._circuit.failed(time.monotonic(), began))
        self._look_now.set()

    def _pause(self, seconds: float) -> None:
        """Tell of the room now and after this time."""
        if seconds > 0:
            self._changed()
            asyncio.get_running_loop().call_later(seconds + 0.01, self._changed)


def _seconds(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The first bytes of a body."""
    found = b""
    async for chunk in response.content.iter_chunked(most):
        found += chunk
        if len(found) >= most:
            break
    return found[:most]


def _said(body: bytes, secret: str) -> str:
    text = body.decode("utf-8", "replace")
    try:
        return message_of(json.loads(text), secret)
    except (ValueError, RecursionError):
        return message_of(text or "no reason", secret)
