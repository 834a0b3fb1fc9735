"""The bookkeeping of `map`, without I/O, shared by both clients.

Inputs are read as there is room for them and their jobs yielded in turn, so that memory is bounded
by one window whatever the number of inputs. An input counts in the window from its submit until
the caller has the job.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import httpx
import orjson

from . import calls
from .calls import Call, dump_json, json_input
from .errors import ApiError
from .retries import Attempts, RetryPolicy
from .types import TERMINAL, Job

__all__ = ("NOT_YET", "Chunk", "MapOptions", "Patience", "Plan")

_CHUNK_BYTES = 8 * 1024 * 1024
_TURNED_AWAY = frozenset({429, 503})
NOT_YET = object()
"""In place of an input, by an iterator that has none at the moment."""
_PAUSE_SECONDS = 1.0
_PATIENCE = 15


@dataclass(frozen=True, slots=True)
class MapOptions:
    """The options of `map`."""

    ordered: bool = True
    on_error: Literal["raise", "return"] = "raise"
    window: int = 4096
    """Most inputs that are submitted and not yielded yet."""
    chunk: int = 512
    """Inputs in one submit."""
    wait_seconds: float = 10.0
    """How long one request for results waits."""

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.window < self.chunk:
            raise ValueError("`chunk` must be at least 1, and `window` at least `chunk`")
        if self.on_error not in ("raise", "return"):
            raise ValueError('`on_error` is "raise" or "return"')


class Chunk:
    """Some inputs in progress: lines to submit, then ids to query, then jobs.

    Each request advances it; requests with a lost response are repeated, so that an input may
    run twice, but is yielded once.
    """

    def __init__(self, model: str, lines: Mapping[int, bytes], wait_seconds: float) -> None:
        self._model = model
        self._wait_seconds = wait_seconds
        self._lines = dict(lines)
        self._sent: list[int] = []
        self._indexes: dict[str, int] = {}
        self._submitting = False
        self._open = 2 * len(lines)
        self._turned_away = ("", "")
        self.retry_after: float | None = None
        """The Retry-After in seconds, where some of the lines were refused."""

    def next_call(self) -> Call | None:
        """The next request; None when every input is settled."""
        self.retry_after = None
        self._submitting = bool(self._lines)
        if self._lines:
            self._sent = list(self._lines)
            return calls.bulk(list(self._lines.values()))
        return calls.results(list(self._indexes), self._wait_seconds) if self._indexes else None

    def read(self, line: bytes) -> Job | None:
        """Process one line of the response; returns a job if the line settles one."""
        answer = orjson.loads(line)
        return self._read_taken(answer) if self._submitting else self._read_result(answer)

    def moved(self) -> bool:
        """Whether the requests since the last call of this made progress."""
        before, self._open = self._open, 2 * len(self._lines) + len(self._indexes)
        return self._open < before

    def give_up(self) -> list[Job]:
        """Settle the lines that were refused repeatedly as failed, with the last reason."""
        jobs = [self._refused(index, *self._turned_away) for index in self._lines]
        self._lines.clear()
        return jobs

    def _read_taken(self, answer: dict[str, Any]) -> Job | None:
        index = self._sent[answer["line"] - 1]
        if "id" in answer:
            self._lines.pop(index, None)
            self._indexes[answer["id"]] = index
            return None
        problem = answer["error"]
        reason = str(problem.get("type", "")).rpartition("/")[2].replace("-", "_")
        why = (reason, str(problem.get("detail", "")))
        if problem.get("status") in _TURNED_AWAY:
            self._turned_away = why
            self.retry_after = float(problem.get("retry_after") or _PAUSE_SECONDS)
            return None
        self._lines.pop(index, None)
        return self._refused(index, *why)

    def _read_result(self, answer: dict[str, Any]) -> Job | None:
        unknown = "state" not in answer
        if answer.get("id") not in self._indexes or not (unknown or answer["state"] in TERMINAL):
            return None
        index = self._indexes.pop(answer["id"])
        if unknown:
            return self._refused(index, "unknown_job", "its result is no longer kept")
        return _job(answer, index)

    def _refused(self, index: int, reason: str, message: str) -> Job:
        return refused_job(self._model, index, reason, message)


class Patience:
    """How long a chunk pauses between its requests, and when it stops retrying.

    A full lane or a rate slows a map down by refusals, and other chunks of the same window may
    have used the room; so refusals are retried for longer than errors.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._reset()

    def pause(self, chunk: Chunk, error: httpx.TransportError | ApiError | None) -> float | None:
        """Seconds until the next request; None after too many consecutive refusals of lines.

        Raises the error after too many consecutive ones, or when it is permanent.
        """
        moved = chunk.moved()
        if moved:
            self._reset()
        if error is not None:
            return self._after_errors.after(error)
        if chunk.retry_after is not None:
            return self._turned_away.pause(chunk.retry_after)
        return 0.0 if moved else _PAUSE_SECONDS / 10

    def _reset(self) -> None:
        patient = replace(self._policy, retries=self._policy.retries * _PATIENCE)
        self._turned_away = Attempts(patient, repeatable=True)
        self._after_errors = Attempts(self._policy, repeatable=True)


class Plan:
    """Decides which inputs are submitted next, and which jobs may be yielded."""

    def __init__(
        self, model: str, inputs: Iterable[Any], fields: Mapping[str, Any], options: MapOptions
    ) -> None:
        self._model = model
        self._inputs: Iterator[Any] = iter(inputs)
        self._fields = dict(fields)
        self._options = options
        self._taken = 0
        self._given = 0
        self._ready: dict[int, Job] = {}
        self._spare: bytes | None = None
        self._exhausted = False
        self._refused: list[Job] = []

    @property
    def done(self) -> bool:
        """Whether all jobs were yielded."""
        return self._exhausted and self._given == self._taken

    def next_chunk(self) -> Chunk | None:
        """The next inputs, when there are any and the window has room for a whole chunk."""
        if (
            self._exhausted
            or self._taken - self._given > self._options.window - self._options.chunk
        ):
            return None
        lines: dict[int, bytes] = {}
        size = 0
        for _ in range(self._options.chunk):
            line = self._next_line()
            if line is None:
                break
            if lines and size + len(line) > _CHUNK_BYTES:
                self._spare = line
                break
            if line:
                lines[self._taken] = line
            self._taken += 1
            size += len(line)
        return Chunk(self._model, lines, self._options.wait_seconds) if lines else None

    def take_refused(self) -> list[Job]:
        """The jobs, since the last call, of inputs that cannot be sent at all."""
        refused, self._refused = self._refused, []
        return refused

    def settle(self, jobs: Sequence[Job]) -> list[Job]:
        """Record settled jobs; returns those that may be yielded now, in order if required."""
        if not self._options.ordered:
            self._given += len(jobs)
            return list(jobs)
        self._ready.update((job["index"], job) for job in jobs)
        out = []
        while (job := self._ready.pop(self._given, None)) is not None:
            out.append(job)
            self._given += 1
        return out

    def _next_line(self) -> bytes | None:
        """The next input as a line, empty where it cannot be sent; None where none is there."""
        if self._spare is not None:
            line, self._spare = self._spare, None
            return line
        for value in self._inputs:
            if value is NOT_YET:
                return None
            try:
                body = {"model": self._model, "input": json_input(value), **self._fields}
                return dump_json(body) + b"\n"
            except Exception as exc:  # noqa: BLE001 - what an input may raise, being sent
                why = f"{type(exc).__name__}: {exc}"
                self._refused.append(refused_job(self._model, self._taken, "invalid_input", why))
                return b""
        self._exhausted = True
        return None


def refused_job(model: str, index: int, reason: str, message: str) -> Job:
    """A job that never was: its input was refused, here or by the API."""
    failure = {"reason": reason, "message": message}
    return _job({"id": "", "model": model, "state": "failed", "error": failure}, index)


def _job(answer: dict[str, Any], index: int) -> Job:
    job: Job = {**answer, "index": index}  # type: ignore[typeddict-item]  # as the API says it
    return job
