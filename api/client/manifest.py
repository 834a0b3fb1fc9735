"""What a long `map` has submitted and what of it is done, in one SQLite file.

With it a program that was stopped, in whatever way, goes on where it was: inputs that are done are
not yielded again, and what was submitted is asked for by its id and not run again. What is not
committed yet, at most a second's, is done over.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, Self

from .errors import ClientError

__all__ = ("Manifest", "ManifestError")

_COMMIT_SECONDS = 0.5
_READ_ROWS = 1024
_TABLES = """
CREATE TABLE IF NOT EXISTS rows (
    number INTEGER PRIMARY KEY, digest BLOB NOT NULL, job TEXT, state TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class ManifestError(ClientError):
    """The manifest cannot be used as it is: it is of other inputs, in use, or the disk is full."""


class _Row(NamedTuple):
    digest: bytes
    job: str | None
    state: str | None


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
        self._submitted: dict[int, tuple[bytes, str]] = {}
        self._done: dict[int, tuple[bytes, str]] = {}
        self._window: dict[int, _Row] = {}
        """Rows that were read last, the next ones in turn."""
        self._window_end = 0
        self._committed_at = time.monotonic()
        self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        database = None
        try:
            database = sqlite3.connect(self.path, timeout=0.5, isolation_level=None)
            # Held until it is closed, so that two runs cannot share it.
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_TABLES)
            database.execute("BEGIN IMMEDIATE")
            database.execute("COMMIT")
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
        """Close it; what was not committed is forgotten."""
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
        if number >= self._window_end:
            self._read_on(number)
        row = self._window.pop(number, None)
        if row is None:
            return None, False
        if row.digest not in (digest, _NOT_SENT):
            raise ManifestError(
                f"{self.path}: input {number} is another than in the run that it is of; "
                "name another manifest, or delete this one to begin anew"
            )
        return row.job, row.state is not None

    def submitted(self, jobs: Iterable[tuple[int, bytes, str]]) -> None:
        """Note number, digest and job id of inputs. Any thread may."""
        with self._lock:
            for number, digest, job_id in jobs:
                self._submitted[number] = (digest, job_id)

    def done(self, number: int, digest: bytes, state: str) -> None:
        """Note that an input's outcome was used."""
        self._done[number] = (digest, state)

    @property
    def due(self) -> bool:
        """Whether it is time to commit."""
        return time.monotonic() - self._committed_at >= _COMMIT_SECONDS

    def commit(self) -> None:
        """Write what is new; raises ManifestError, as where the disk is full."""
        self._committed_at = time.monotonic()
        notes = self.before_commit() if self.before_commit else {}
        with self._lock:
            submitted, self._submitted = self._submitted, {}
        done, self._done = self._done, {}
        try:
            self._database.execute("BEGIN")
            self._database.executemany(
                "INSERT INTO rows VALUES (?, ?, ?, NULL) "
                "ON CONFLICT (number) DO UPDATE SET job = excluded.job",
                ((number, *row) for number, row in submitted.items()),
            )
            self._database.executemany(
                "INSERT INTO rows VALUES (?, ?, NULL, ?) "
                "ON CONFLICT (number) DO UPDATE SET state = excluded.state",
                ((number, *row) for number, row in done.items()),
            )
            self._database.executemany("REPLACE INTO notes VALUES (?, ?)", notes.items())
            self._database.execute("COMMIT")
        except sqlite3.Error as exc:
            raise self._trouble(exc) from exc

    def note(self, name: str) -> str | None:
        """The note of this name."""
        query = "SELECT value FROM notes WHERE name = ?"
        row = self._database.execute(query, (name,)).fetchone()
        return None if row is None else str(row[0])

    def counts(self) -> dict[str, int]:
        """How many inputs are done, by state; the others that were submitted under `open`."""
        query = "SELECT coalesce(state, 'open'), count(*) FROM rows GROUP BY 1"
        return dict(self._database.execute(query).fetchall())

    def _read_on(self, number: int) -> None:
        query = "SELECT number, digest, job, state FROM rows WHERE number >= ? AND number < ?"
        self._window_end = number + _READ_ROWS
        found = self._database.execute(query, (number, self._window_end))
        self._window = {row[0]: _Row(*row[1:]) for row in found}

    def _trouble(self, exc: sqlite3.Error) -> ManifestError:
        if "locked" in str(exc):
            return ManifestError(f"{self.path} is in use by another run; wait for it to end")
        if "not a database" in str(exc):
            return ManifestError(f"{self.path} is no manifest; name another file")
        return ManifestError(
            f"{self.path} could not be written ({exc}); make room, and run it again to go on"
        )


def digest_of(line: bytes) -> bytes:
    """What tells an input from another."""
    return blake2b(line, digest_size=8).digest()


_NOT_SENT = digest_of(b"")
"""Of what could not be sent, such as a file that could not be read then."""
