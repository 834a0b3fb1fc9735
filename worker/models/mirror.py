"""Fetches weights that the catalog names by an https URL and a SHA-256: once, and whole.

They come under the rules for URLs that clients choose (common/net), with networks of the
operator's own. The digest is made while the bytes arrive; nothing takes its final name before
it is right. What arrived before a load ended stays, and the next one asks for the rest only.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import shutil
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import structlog

from common.catalog import Mirrored
from common.catalog.mirror import FOLDER
from common.errors import ConfigurationError, UrlRefused
from common.net.addresses import AddressRules, parse_target
from common.settings import MirrorSettings, Settings
from worker.models.archives import unpack
from worker.models.new_folder import new_folder

if TYPE_CHECKING:
    from common.net.outbound import Outbound, Resolve

__all__ = ("Mirror", "mirror_of")

log = structlog.get_logger(__name__)

_CHUNK_BYTES = 1 << 20
_PAUSE_SECONDS = 0.5
_TELL_SECONDS = 10.0
_WRONG_SECONDS = 3600.0
"""A file that was whole and another than the catalog wants is not fetched again so soon: a load is
tried every five minutes, and weights may be many gigabytes.
"""
_HEADERS = (("User-Agent", "lanefleet"), ("Accept", "*/*"), ("Accept-Encoding", "identity"))


class Mirror:
    """Weights by URL, in a folder that all processes of this machine's fleet share."""

    def __init__(
        self,
        folder: Path,
        settings: MirrorSettings,
        *,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """None selects the machine's resolver and its trusted certificates."""
        self._folder = folder
        self._settings = settings
        self._resolve = resolve
        self._ssl_context = ssl_context
        self._wrong: dict[Mirrored, tuple[float, str]] = {}
        """When it was found to be another file, and what was said."""

    def located(self, wanted: Mirrored) -> Path | None:
        """Where it lies; None where it was not fetched yet."""
        place = wanted.place(self._folder)
        return place if place.exists() else None

    def fetch(self, wanted: Mirrored) -> Path:
        """The file, or the folder that an archive became; one process fetches, others wait.

        Raises ConfigurationError with a sentence.
        """
        if (found := self.located(wanted)) is not None:
            return found
        at, said = self._wrong.get(wanted, (0.0, ""))
        if said and time.monotonic() - at < _WRONG_SECONDS:
            raise ConfigurationError(said)
        try:
            with self._lock(wanted):
                return self.located(wanted) or self._fetch(wanted)
        except _AnotherFile as exc:
            said = f"{exc} (it is fetched again in an hour, or by a new process)"
            self._wrong[wanted] = (time.monotonic(), said)
            raise ConfigurationError(said) from exc
        except OSError as exc:
            raise ConfigurationError(_disk(wanted, self._folder, exc)) from exc

    @contextmanager
    def _lock(self, wanted: Mirrored) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / f".{wanted.sha256}.fetch").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _fetch(self, wanted: Mirrored) -> Path:
        partial = self._folder / f".{wanted.sha256}.part"
        begun = time.monotonic()
        log.info("weights_fetch_started", url=wanted.url)
        asyncio.run(self._download(wanted, partial))
        place = wanted.place(self._folder)
        size = partial.stat().st_size
        if wanted.is_archive:
            with new_folder(place) as folder:
                assert folder is not None
                unpack(partial, wanted.suffix, folder, self._settings)
            partial.unlink()
        else:
            partial.replace(place)
        seconds = round(time.monotonic() - begun, 1)
        log.info("weights_fetched", url=wanted.url, bytes=size, seconds=seconds, path=str(place))
        return place

    async def _download(self, wanted: Mirrored, partial: Path) -> None:
        seconds = self._settings.weights_fetch_seconds
        outbound = self._outbound()
        try:
            async with asyncio.timeout(seconds):
                await self._try_often(outbound, wanted, partial)
        except UrlRefused as exc:
            raise ConfigurationError(
                f"weights: {wanted.url}: {exc}; LANEFLEET_WEIGHTS_ALLOW names further networks"
            ) from exc
        except TimeoutError as exc:
            raise ConfigurationError(
                f"weights: {wanted.url} was not there within {seconds:g} s; the next load goes on "
                "from here, and LANEFLEET_WEIGHTS_FETCH_SECONDS gives one more time"
            ) from exc
        finally:
            await outbound.aclose()

    async def _try_often(self, outbound: Outbound, wanted: Mirrored, partial: Path) -> None:
        from common.net.outbound import Unreachable

        said = ""
        for attempt in range(self._settings.weights_tries):
            if attempt:
                await asyncio.sleep(_PAUSE_SECONDS * attempt)
            try:
                await _Download(wanted, partial, self._settings).run(outbound)
            except _TryAgain as exc:
                said = str(exc)
            except Unreachable as exc:
                said = f"its server could not be reached, or broke off ({type(exc).__name__})"
                log.info("weights_mirror_unreachable", url=wanted.url, error=str(exc))
            else:
                return
        raise ConfigurationError(f"weights: {wanted.url}: {said}; look at the mirror")

    def _outbound(self) -> Outbound:
        from common.net.outbound import Outbound

        settings = self._settings
        return Outbound(
            AddressRules(settings.weights_ports, settings.weights_allow),
            step_seconds=min(settings.weights_stall_seconds, settings.weights_fetch_seconds),
            max_connections=2,
            resolve=self._resolve,
            ssl_context=self._ssl_context,
        )


def mirror_of(settings: Settings) -> Mirror:
    """That of this machine's state folder."""
    return Mirror(settings.state_dir / FOLDER, settings)


class _TryAgain(Exception):
    """Another try may succeed; the message says what happened."""


class _AnotherFile(Exception):
    """It came whole, and is not what the catalog wants; the message says what to correct."""


class _Download:
    """One request: appends to what is there, and checks the digest of the whole."""

    def __init__(self, wanted: Mirrored, partial: Path, settings: MirrorSettings) -> None:
        self._wanted = wanted
        self._partial = partial
        self._limit = settings.weights_max_bytes
        self._digest = hashlib.sha256()
        self._size = 0
        self._total: int | None = None
        """All bytes of the file, where the server says so."""
        self._page = ""
        """Says that it is a web page, where its server does."""
        self._resumed = False
        """Whether it goes on from a part, which may be of another file."""
        self._tell_at = time.monotonic() + _TELL_SECONDS

    async def run(self, outbound: Outbound) -> None:
        """Raises _TryAgain, ConfigurationError, OSError, or what httpcore does."""
        # Mode 0600: whoever may read it is decided by the folder once it is whole.
        handle = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(handle, "r+b") as file:
            self._read_what_is_there(file)
            if self._digest.hexdigest() == self._wanted.sha256:
                return  # whoever fetched it ended before it got its name
            headers: tuple[tuple[str, str], ...] = _HEADERS
            self._resumed = bool(self._size)
            if self._resumed:
                headers = (*_HEADERS, ("Range", f"bytes={self._size}-"))
            target = parse_target(self._wanted.url)
            async with outbound.request("GET", target, headers) as response:
                self._begin(response, file)
                async for chunk in response.aiter_stream():
                    self._take(chunk, file)
            file.flush()
            os.fsync(file.fileno())
        self._check_digest()

    def _read_what_is_there(self, file: BinaryIO) -> None:
        while chunk := file.read(_CHUNK_BYTES):
            self._digest.update(chunk)
            self._size += len(chunk)

    def _begin(self, response: Any, file: BinaryIO) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        if self._size and response.status == 206:
            if not headers.get(b"content-range", "").startswith(f"bytes {self._size}-"):
                self._forget(file)
                raise _TryAgain("its server sent another part than the one that was asked for")
        elif self._size and response.status in (200, 416):
            # It cannot send parts, or has no more than what is there, which is not the file.
            self._forget(file)
            if response.status == 416:
                raise _TryAgain("its server has a shorter file than was fetched before")
        if response.status not in (200, 206):
            self._refuse(response.status)
        if headers.get(b"content-encoding", "identity").lower() != "identity":
            raise ConfigurationError(
                f"weights: {self._wanted.url} was sent compressed unasked; have the mirror send it "
                "as it is"
            )
        if headers.get(b"content-type", "").lower().startswith("text/html"):
            self._page = "its server sent a web page (text/html); "
        declared = headers.get(b"content-length", "")
        if declared.isdecimal():
            self._total = self._size + int(declared)
            self._check_room(self._total, int(declared))

    def _refuse(self, status: int) -> None:
        url = self._wanted.url
        if status >= 500 or status == 429:
            raise _TryAgain(f"its server answered {status}")
        if 300 <= status < 400:
            raise ConfigurationError(
                f"weights: {url}: its server answered {status}; redirects are not followed, so "
                "name the address that it leads to"
            )
        raise ConfigurationError(f"weights: {url}: its server answered {status} instead of 200")

    def _check_room(self, total: int, coming: int) -> None:
        if total > self._limit:
            raise self._too_large()
        free = shutil.disk_usage(self._partial.parent).free
        if coming > free:
            raise OSError(errno.ENOSPC, f"{coming} bytes are to come and {free} are free")

    def _take(self, chunk: bytes, file: BinaryIO) -> None:
        self._size += len(chunk)
        if self._size > self._limit:
            self._forget(file)
            raise self._too_large()
        file.write(chunk)
        self._digest.update(chunk)
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + _TELL_SECONDS
            share = f"{100 * self._size / self._total:.0f} %" if self._total else "unknown"
            log.info("weights_part_fetched", url=self._wanted.url, bytes=self._size, share=share)

    def _check_digest(self) -> None:
        found = self._digest.hexdigest()
        if found == self._wanted.sha256:
            return
        if self._total is not None and self._size < self._total:
            raise _TryAgain("its server broke off")
        self._partial.unlink()
        if self._resumed:
            raise _TryAgain("what it sent does not go on from what was fetched before")
        raise _AnotherFile(
            f"weights: {self._wanted.url} has the SHA-256 {found}, and the catalog wants "
            f"{self._wanted.sha256}; {self._page}correct the one that is wrong"
        )

    def _forget(self, file: BinaryIO) -> None:
        file.seek(0)
        file.truncate()
        self._digest, self._size, self._resumed = hashlib.sha256(), 0, False

    def _too_large(self) -> ConfigurationError:
        return ConfigurationError(
            f"weights: {self._wanted.url} is larger than {self._limit} bytes; "
            "LANEFLEET_WEIGHTS_MAX_BYTES sets the limit"
        )


def _disk(wanted: Mirrored, folder: Path, exc: OSError) -> str:
    what = f"weights: {wanted.url} cannot be kept in {folder}"
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{what}: the disk is full ({exc.strerror}); make room, or move LANEFLEET_STATE_DIR"
    return f"{what}: {exc.strerror or exc}; see to the folder, or move LANEFLEET_STATE_DIR"
