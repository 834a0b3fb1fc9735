"""What a long `map` has submitted and what of it is done, in one SQLite file.

With it a program that was stopped, in whatever way, goes on where it was: inputs that are done are
not yielded again, and what was submitted is asked for by its id and not run again. What is not
committed yet, at most half a second's, is done over.

A row of the file is a page of many inputs: a row for each input would cost more than all else that
`map` does for it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Self

from .errors import ClientError

__all__ = ("Manifest", "ManifestError")

_COMMIT_SECONDS = 0.5
_PAGE = 512
"""Inputs in a page."""
_DIGEST_BYTES = 8
_TABLES = """
CREATE TABLE IF NOT EXISTS pages (
    number INTEGER PRIMARY KEY, digests BLOB NOT NULL, states BLOB NOT NULL, jobs TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_TABLES_OF = "SELECT name FROM sqlite_master WHERE type = 'table'"
_UNKNOWN, _OPEN = 0, 1
_STATES = ("", "open", "succeeded", "failed", "canceled", "expired")
"""By their bytes in a page."""


class ManifestError(ClientError):
    """The manifest cannot be used as it is: it is of other inputs, in use, or the disk is full."""


class _Page:
    """What is known of `_PAGE` inputs."""

    __slots__ = ("digests", "jobs", "states")

    def __init__(self, digests: bytes = b"", states: bytes = b"", jobs: str = "") -> None:
        self.digests = bytearray(digests or _PAGE * _DIGEST_BYTES)
        self.states = bytearray(states or _PAGE)
        self.jobs = jobs.split("\n") if jobs else [""] * _PAGE
        """Ids of those that are open."""

    def digest(self, at: int) -> bytes:
        """Of one input."""
        return bytes(self.digests[at * _DIGEST_BYTES : (at + 1) * _DIGEST_BYTES])

    def put(self, at: int, digest: bytes, state: int, job: str) -> None:
        """Note what is new of one; what is done stays done."""
        self.digests[at * _DIGEST_BYTES : (at + 1) * _DIGEST_BYTES] = digest
        self.states[at] = max(state, self.states[at])
        self.jobs[at] = job if self.states[at] == _OPEN else ""

    @property
    def is_done(self) -> bool:
        """Whether all of them are."""
        return min(self.states) > _OPEN


class Manifest:
    """The state of one run; used by one `map` at a time.

    `note` and `before_commit` let whoever writes results elsewhere keep, in the same transaction,
    how far that is: `before_commit` is called before each and returns notes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open it, or begin one; raises ManifestError."""
        self.path = Path(path)
        self.before_commit: Callable[[], Mapping[str, str]] | None = None
        self._lock = threading.Lock()
        self._submitted: list[tuple[int, bytes, str]] = []
        self._done: list[tuple[int, bytes, str]] = []
        self._pages: dict[int, _Page] = {}
        """Pages of inputs in progress, by their numbers."""
        self._looked_at = (-1, _Page())
        """The page that was read last."""
        self._committed_at = time.monotonic()
        self._last = -1
        """The last page of earlier runs."""
        self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        database = None
        try:
            database = sqlite3.connect(self.path, timeout=0.5, isolation_level=None)
            # Held until it is closed, so that two runs cannot share it.
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            tables = {row[0] for row in database.execute(_TABLES_OF)}
            if tables - {"pages", "notes"}:
                raise sqlite3.DatabaseError("not a database of ours")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_TABLES)
            database.execute("BEGIN IMMEDIATE")
            database.execute("COMMIT")
            last = database.execute("SELECT max(number) FROM pages").fetchone()[0]
            self._last = -1 if last is None else last
        except sqlite3.Error as exc:
            if database is not None:
                database.close()
            raise self._trouble(exc) from exc
        return database

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; what was done and not committed is forgotten, what was submitted is kept."""
        self._done = []
        with contextlib.suppress(ManifestError, sqlite3.Error):
            self._write({})
        self._database.close()

    def end(self) -> None:
        """Commit what can be, and close it."""
        with contextlib.suppress(ManifestError):
            self.commit()
        self.close()

    def check(self, number: int, digest: bytes) -> tuple[str | None, bool]:
        """The id of an input's job, if it was submitted, and whether it is done.

        Raises ManifestError where another input has this number here.
        """
        page_number, at = divmod(number, _PAGE)
        if page_number > self._last:
            return None, False
        if page_number != self._looked_at[0]:
            self._looked_at = (page_number, self._read(page_number))
        page = self._looked_at[1]
        state = page.states[at]
        if state != _UNKNOWN and page.digest(at) not in (digest, _NOT_SENT):
            raise ManifestError(
                f"{self.path}: input {number} is another than in the run that it is of, or has "
                "other options; name another manifest, or delete this one to begin anew"
            )
        return page.jobs[at] or None, state > _OPEN

    def submitted(self, jobs: Iterable[tuple[int, bytes, str]]) -> None:
        """Note number, digest and job id of inputs. Any thread may."""
        with self._lock:
            self._submitted += jobs

    def done(self, number: int, digest: bytes, state: str) -> None:
        """Note that an input's outcome was used."""
        self._done.append((number, digest, state))

    @property
    def due(self) -> bool:
        """Whether it is time to commit."""
        return time.monotonic() - self._committed_at >= _COMMIT_SECONDS

    def commit(self) -> None:
        """Write what is new; raises ManifestError, as where the disk is full."""
        self._committed_at = time.monotonic()
        notes = self.before_commit() if self.before_commit else {}
        self._write(notes)

    def _write(self, notes: Mapping[str, str]) -> None:
        """All of it, or where that is interrupted nothing; what was submitted is kept then."""
        with self._lock:
            submitted, self._submitted = self._submitted, []
        done, self._done = self._done, []
        changed = sorted({number // _PAGE for number, _, _ in submitted + done})
        try:
            self._put(submitted, done)
            self._database.execute("BEGIN")
            rows = (self._row(number) for number in changed)
            self._database.executemany("REPLACE INTO pages VALUES (?, ?, ?, ?)", rows)
            self._database.executemany("REPLACE INTO notes VALUES (?, ?)", notes.items())
            self._database.execute("COMMIT")
        except BaseException as exc:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            for number in changed:
                self._pages.pop(number, None)
            with self._lock:
                self._submitted = submitted + self._submitted
            if isinstance(exc, sqlite3.Error):
                raise self._trouble(exc) from exc
            raise
        for number in changed:
            if self._pages[number].is_done:
                del self._pages[number]

    def _put(
        self, submitted: list[tuple[int, bytes, str]], done: list[tuple[int, bytes, str]]
    ) -> None:
        for number, digest, job in submitted:
            self._page(number // _PAGE).put(number % _PAGE, digest, _OPEN, job)
        for number, digest, state in done:
            self._page(number // _PAGE).put(number % _PAGE, digest, _STATES.index(state), "")

    def _page(self, number: int) -> _Page:
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = self._read(number)
        return page

    def _row(self, number: int) -> tuple[int, bytearray, bytearray, str]:
        page = self._pages[number]
        return number, page.digests, page.states, "\n".join(page.jobs)

    def _read(self, number: int) -> _Page:
        query = "SELECT digests, states, jobs FROM pages WHERE number = ?"
        row = self._database.execute(query, (number,)).fetchone()
        return _Page(*row) if row else _Page()

    def note(self, name: str) -> str | None:
        """The note of this name."""
        query = "SELECT value FROM notes WHERE name = ?"
        row = self._database.execute(query, (name,)).fetchone()
        return None if row is None else str(row[0])

    def counts(self) -> dict[str, int]:
        """How many inputs are done, by state; the others that were submitted under `open`."""
        counts: Counter[str] = Counter()
        for (states,) in self._database.execute("SELECT states FROM pages"):
            counts.update({name: states.count(byte) for byte, name in enumerate(_STATES) if byte})
        return {name: count for name, count in counts.items() if count}

    def _trouble(self, exc: sqlite3.Error) -> ManifestError:
        if "locked" in str(exc):
            return ManifestError(f"{self.path} is in use by another run; wait for it to end")
        if "not a database" in str(exc) or "no such column" in str(exc):
            return ManifestError(f"{self.path} is no manifest; name another file")
        if "unable to open" in str(exc) or "readonly" in str(exc):
            return ManifestError(f"{self.path} cannot be written ({exc}); name another file")
        return ManifestError(
            f"{self.path} could not be written ({exc}); make room, and run it again to go on"
        )


def digest_of(line: bytes) -> bytes:
    """What tells an input from another."""
    return blake2b(line, digest_size=_DIGEST_BYTES).digest()


_NOT_SENT = digest_of(b"")
"""Of what could not be sent, such as a file that could not be read then."""
