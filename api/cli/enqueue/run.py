"""One run of `lanefleet enqueue`: rows in, results out, the manifest in between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from api.cli.enqueue.progress import Count, Reporter
from api.cli.enqueue.results import Results
from api.cli.enqueue.rows import Reader, Row
from api.cli.enqueue.sources import Source
from api.client import Client, Input, Job, Manifest
from api.client.calls import dump_json, json_input


@dataclass(frozen=True, slots=True)
class Options:
    """How rows are submitted."""

    model: str
    window: int
    chunk: int
    limit: int | None
    fields: dict[str, Any]
    """Of every job: priority, labels, ..."""


@dataclass(slots=True)
class DryRun:
    """What a run would submit."""

    rows: int = 0
    refused: int = 0
    first: list[dict[str, Any]] = field(default_factory=list)
    why: list[str] = field(default_factory=list)


class Run:
    """Submits the rows of a source and writes their results."""

    def __init__(self, source: Source, reader: Reader, options: Options) -> None:
        self._source = source
        self._reader = reader
        self._options = options
        self._ids: dict[int, str] = {}
        """Of the rows in progress whose id is not their number."""
        total = source.total
        if total is not None and options.limit is not None:
            total = min(total, options.limit)
        self.count = Count(total)
        self.failed_before = 0
        self.first_failures: list[str] = []

    @property
    def model(self) -> str:
        """The model."""
        return self._options.model

    def go(
        self, client: Client, manifest: Manifest | None, results: Results | None, shown: Reporter
    ) -> None:
        """Run to the end; raises what reading, submitting and writing do."""
        options = self._options
        jobs = client.map(
            options.model,
            self._inputs(),
            ordered=False,
            on_error="return",
            window=options.window,
            chunk=options.chunk,
            manifest=manifest,
            details=False,
            on_pause=self._pause,
            **options.fields,
        )
        for job in jobs:
            self._take(job, results)
            shown.check()

    def dry_run(self, most: int) -> DryRun:
        """Read everything and submit nothing."""
        found = DryRun()
        for row in self._rows():
            found.rows += 1
            try:
                self._check(row.input)
            except Exception as exc:  # noqa: BLE001 - what an input may raise, being sent
                found.refused += 1
                if len(found.why) < most:
                    found.why.append(f"row {found.rows - 1} ({row.id}): {exc}")
            else:
                if len(found.first) < most:
                    found.first.append({"id": row.id, **_shown(row.input)})
        return found

    def _check(self, given: Input) -> None:
        if isinstance(given.value, Exception):
            raise given.value
        dump_json({"input": json_input(given.value), **given.fields})

    def _rows(self) -> Iterator[Row]:
        rows = self._source.rows(self._reader)
        return rows if self._options.limit is None else islice(rows, self._options.limit)

    def _pause(self, why: str, seconds: float) -> None:
        self.count.pause = (why, time.monotonic() + seconds)

    def _inputs(self) -> Iterator[Input]:
        for number, row in enumerate(self._rows()):
            if row.id != str(number):
                self._ids[number] = row.id
            self.count.submitted = number + 1
            yield row.input

    def _take(self, job: Job, results: Results | None) -> None:
        index = job["index"]
        row_id = self._ids.pop(index, str(index))
        self.count.done += 1
        if job["state"] != "succeeded":
            self.count.failed += 1
            if len(self.first_failures) < 3:
                said = job.get("error", {}).get("message", job["state"])
                self.first_failures.append(f"row {index} ({row_id}): {said}")
        if results is not None:
            results.write(row_id, job)


def default_manifest(out: Path) -> Path:
    """Beside the results."""
    return out.with_name(f"{out.name}.manifest")


def _shown(given: Input) -> dict[str, Any]:
    value = given.value
    if isinstance(value, bytes):
        value = f"{len(value):,} bytes"
    return {"input": value, **given.fields} if value is not None else dict(given.fields)
