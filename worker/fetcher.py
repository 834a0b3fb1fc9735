"""Fetch inputs that are neither in the message nor in Redis: from a URL, or the blob store.

One thread with an event loop, so that a server that hangs holds up nothing
but its own job: neither the decoders, nor the feeder, nor the device. What
was fetched goes back to the feeder, which hands it on as if it had come with
the message.

What a client reads of a failure says nothing of what answered: a fleet may
be allowed to reach inside networks, and must not become an ear in them.
"""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import httpcore
import structlog

from common.addresses import AddressRules, parse_target
from common.blobs import Blobs
from common.errors import (
    FleetError,
    InputStoreUnavailable,
    InputTooLarge,
    InputUrlFailed,
    InputUrlRefused,
    UrlRefused,
)
from common.inputs import BLOB_REFERENCE
from common.outbound import Outbound, Unreachable
from common.settings import Settings
from worker.lane import Lane
from worker.pipeline import Execution

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 0.5
_STORE_RETRY_MS = 5_000
_HEADERS = (
    ("User-Agent", "lanefleet"),
    ("Accept", "*/*"),
    ("Accept-Encoding", "identity"),
    ("Connection", "keep-alive"),
)
_ZLIB_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class Fetcher:
    """Takes executions whose input is elsewhere; delivers each once, fetched or failed."""

    def __init__(
        self, settings: Settings, blobs: Blobs | None, deliver: Callable[[Lane, Execution], None]
    ) -> None:
        """deliver is called on the fetcher's own thread."""
        self._settings = settings
        self._blobs = blobs
        self._deliver = deliver
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(settings.fetch_concurrency)
        self._tasks: set[asyncio.Task[None]] = set()
        self._outbound: Outbound | None = None
        self._thread = threading.Thread(target=self._run, name="fetcher", daemon=True)

    def start(self) -> None:
        """Begin to fetch."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is being fetched stays undelivered."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)

    def put(self, lane: Lane, executions: Sequence[Execution]) -> None:
        """Fetch the inputs of these, each on its own."""
        for execution in executions:
            self._loop.call_soon_threadsafe(self._begin, self._serve(lane, execution))

    def discard(self, job_ids: Sequence[str]) -> None:
        """Remove the stored inputs of jobs that are settled; the sweep gets what this does not."""
        if self._blobs is not None:
            self._loop.call_soon_threadsafe(self._begin, self._discard(self._blobs, job_ids))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, lane: Lane, execution: Execution) -> None:
        try:
            async with self._slots:
                if execution.settled is None:
                    await self._fetch(execution)
        except InputStoreUnavailable as exc:
            # Not the job's fault: it comes again, so often as deliveries are allowed.
            if execution.settled is None:
                execution.settled, execution.error = "parked", exc
                execution.eta = -_STORE_RETRY_MS
        except FleetError as exc:
            execution.fail("decode", exc)
        except Exception as exc:
            log.exception("fetch_failed", job_id=execution.job_id)
            execution.fail("decode", InputUrlFailed("`input_url`: fetching it failed"))
            execution.error.__cause__ = exc  # type: ignore[union-attr]  # just set
        self._deliver(lane, execution)

    async def _fetch(self, execution: Execution) -> None:
        if execution.input_url is not None:
            execution.blob = await self.fetch_url(execution.input_url)
        elif self._blobs is None:
            log.error("blob_url_is_not_set", job_id=execution.job_id)
            raise InputStoreUnavailable("this worker does not know where large inputs are kept")
        else:
            execution.blob = await self._blobs.get(execution.job_id)
        execution.value = BLOB_REFERENCE

    async def _discard(self, blobs: Blobs, job_ids: Sequence[str]) -> None:
        try:
            await blobs.delete(job_ids)
        except FleetError:
            log.warning("inputs_left_to_the_sweep", jobs=len(job_ids))

    async def fetch_url(self, url: str) -> bytes:
        """The input behind a URL, by the rules of common/addresses.py and within its limits.

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
        if self._outbound is None:
            settings = self._settings
            self._outbound = Outbound(
                AddressRules(settings.fetch_ports, settings.fetch_allow),
                step_seconds=min(5.0, settings.fetch_seconds),
                max_connections=settings.fetch_concurrency,
            )
        return self._outbound


class _Temporary(Exception):
    """The server says that it fails; it may answer when it is asked again."""


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
    """The body, decompressed where its server compressed it all the same; never past the limit."""
    headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
    declared = headers.get(b"content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    inflater = _inflater(headers.get(b"content-encoding", ""))
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_stream():
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
    """At most a byte more than there is room for, whatever the chunk would grow to."""
    try:
        inflated: bytes = inflater.decompress(chunk, room + 1)
    except zlib.error as exc:
        raise InputUrlFailed("`input_url`: what its server compressed is corrupt") from exc
    return inflated


def _too_large(limit: int) -> InputTooLarge:
    return InputTooLarge(f"`input_url`: what lies there is larger than {limit} bytes")
