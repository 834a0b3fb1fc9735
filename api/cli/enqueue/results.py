"""Writes results so that each row is there once, however often the run was stopped.

Every form but a folder is appended to one file, whose length the manifest notes with the rows that
are in it; what is beyond that length when a run begins was not noted, and is cut off. Parquet
cannot be appended to, so its rows lie in such a file until the end. Files of a folder are written
under another name and renamed.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
import re
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import orjson

from api.cli.enqueue.parquet import to_parquet
from api.client import ClientError, Job, Manifest

_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_BUFFER_BYTES = 1 << 20
_SAFE = re.compile(r"[^A-Za-z0-9._-]+")
_CSV_COLUMNS = ("index", "id", "result")


class ResultsError(ClientError):
    """Results cannot be written as they are asked for."""


class _Sink(Protocol):
    def write(self, row_id: str, job: Job) -> None: ...

    def flush(self) -> int: ...

    def close(self) -> None: ...


class Journal:
    """A file that is appended to, from the length that was noted last.

    The buffer is its own: what was not noted is dropped, where a file's would be written when it is
    closed, and raise again on a full disk.
    """

    def __init__(
        self,
        path: Path,
        length: int,
        line_of: Callable[[str, Job], bytes],
        head: bytes = b"",
    ) -> None:
        """length is what was noted, head what a new file begins with."""
        self.path = path
        self._line_of = line_of
        self._noted = length
        self._lines = [] if length else [head]
        self._size = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("ab", buffering=0)
        _lock(self._stream, path)
        if path.stat().st_size < length:
            raise ResultsError(
                f"{path} is shorter than when the manifest was written: what it had is gone; "
                "delete the manifest to begin anew"
            )
        os.truncate(path, length)

    def write(self, row_id: str, job: Job) -> None:
        """Append a row."""
        line = self._line_of(row_id, job)
        self._lines.append(line)
        self._size += len(line)
        if self._size >= _BUFFER_BYTES:
            self._write_out()

    def flush(self) -> int:
        """Write it out; returns its length, which counts once it is noted."""
        self._write_out()
        self._noted = self._stream.tell()
        return self._noted

    def close(self) -> None:
        """Close it, without what was not noted."""
        self._stream.close()
        os.truncate(self.path, self._noted)

    def _write_out(self) -> None:
        left = memoryview(b"".join(self._lines))
        while left:  # of a disk that gets full a part is written
            left = left[self._stream.write(left) :]
        self._lines, self._size = [], 0


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(parents=True, exist_ok=True)
        self._files = 0

    def write(self, row_id: str, job: Job) -> None:
        """Write the row's file."""
        index = str(job["index"])
        tail = "" if row_id == index else "-" + _SAFE.sub("_", row_id)[-100:]
        target = self._path / f"{job['index']:08d}{tail}.json"
        partial = target.with_suffix(".partial")
        partial.write_bytes(_as_json(row_id, job))
        partial.replace(target)
        self._files += 1

    def flush(self) -> int:
        """Nothing: each file is written at once."""
        return self._files

    def close(self) -> None:
        """Nothing."""


class Results:
    """The results of a run, and its failures in a file of their own."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Raises ResultsError."""
        self.path = path
        self.form = _form_of(path)
        self.failures = path.with_name(f"{path.stem}.failed.jsonl")
        self._manifest = manifest
        self._claim()
        self._sink = self._open()
        self._failed = Journal(self.failures, _noted(manifest, "failed_bytes"), _failure_line)

    def _claim(self) -> None:
        """Note which file the manifest is of, before anything is in it."""
        known = self._manifest.note("results")
        if known is None:
            for path in (self.path, self.failures, self._parts):
                is_file = path.is_file() and path.stat().st_size
                if is_file or (path.is_dir() and any(path.iterdir())):
                    raise ResultsError(f"{path} is there already; name another, or delete it")
            self._manifest.before_commit = lambda: {"results": self.path.name}
            self._manifest.commit()
        elif known != self.path.name:
            raise ResultsError(
                f"{self._manifest.path} is of results in {known!r}; name those, or another manifest"
            )

    def _open(self) -> _Sink:
        length = _noted(self._manifest, "bytes")
        if self.form == "folder":
            return _Folder(self.path)
        if self.form == "parquet":
            return Journal(self._parts, length, _as_json)
        if self.form == "csv":
            return Journal(self.path, length, _csv_line, ",".join(_CSV_COLUMNS).encode() + b"\n")
        return Journal(self.path, length, _as_json)

    @property
    def _parts(self) -> Path:
        return self.path.with_name(f"{self.path.name}.parts.jsonl")

    def write(self, row_id: str, job: Job) -> None:
        """Add a row."""
        sink = self._sink if job["state"] == "succeeded" else self._failed
        sink.write(row_id, job)

    def flush(self) -> Mapping[str, str]:
        """Write out; returns what the manifest has to note."""
        return {"bytes": str(self._sink.flush()), "failed_bytes": str(self._failed.flush())}

    def finish(self) -> None:
        """Make of it what was asked for, once every row is there."""
        if self.form == "parquet":
            to_parquet(self._parts, self.path)

    def close(self) -> None:
        """Close the files, without what was not noted."""
        self._sink.close()
        self._failed.close()
        if not self.failures.stat().st_size:
            self.failures.unlink()

    def drop_parts(self) -> None:
        """Drop what a Parquet file was made from."""
        self._parts.unlink(missing_ok=True)


def _lock(stream: FileIO, path: Path) -> None:
    """Keep others from writing it until it is closed, where the file system can."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise ResultsError(f"{path} is written by another run; wait for it to end") from None
    except OSError:
        pass


def _form_of(path: Path) -> str:
    form = _SUFFIXES.get(path.suffix.lower())
    if form is None and path.suffix and not path.is_dir():
        raise ResultsError(
            f"{str(path)!r} does not tell a format by its name; it is .jsonl, .csv, .parquet, or "
            "a folder without a suffix"
        )
    return form or "folder"


def _noted(manifest: Manifest, name: str) -> int:
    return int(manifest.note(name) or 0)


def _as_json(row_id: str, job: Job) -> bytes:
    row = {"index": job["index"], "id": row_id, "result": job.get("result")}
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _failure_line(row_id: str, job: Job) -> bytes:
    failure = job.get("error") or {"reason": job["state"], "message": job["state"]}
    row = {
        "index": job["index"],
        "id": row_id,
        "job_id": job["id"] or None,
        "state": job["state"],
        **failure,
    }
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _csv_line(row_id: str, job: Job) -> bytes:
    result: Any = job.get("result")
    text = result if isinstance(result, str) else orjson.dumps(result).decode()
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow((job["index"], row_id, text))
    return line.getvalue().encode()
