"""Some inputs of a `map` on their way: what is asked next, what the answers mean, when to pause."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, cast

import httpx
import orjson

from . import calls
from .calls import Call
from .errors import ApiError
from .manifest import Manifest
from .retries import Attempts, RetryPolicy
from .types import TERMINAL, Failure, Job

__all__ = ("Chunk", "Patience", "Shared", "refused_job")

_TURNED_AWAY = frozenset({429, 503})
_PAUSE_SECONDS = 1.0
_PATIENCE = 15
_TOLD_SECONDS = 1.0
"""Of pauses, those worth telling of."""
_PROBE_SECONDS, _QUICK_SECONDS = 1.0, 5.0
_MOST_IDS = 2048
"""Ids in one request for results, unless the API takes fewer: its default."""


@dataclass(slots=True)
class Shared:
    """What the chunks of one map share."""

    manifest: Manifest | None
    details: bool = True
    """Whether jobs are asked for with all that is known of them."""
    on_pause: Callable[[str, float], None] | None = None
    most_ids: int = _MOST_IDS
    """Ids in one request for results; fewer once the API has refused so many."""
    quick: bool = False
    """Whether the last chunk was settled so soon that waiting for its last job is enough: to watch
    each of its jobs costs the API and Redis half as much again as running them does.
    """
    clock: Callable[[], float] = time.monotonic
    digests: dict[int, bytes] = field(default_factory=dict)
    """Of the inputs in progress, where there is a manifest."""


class Chunk:
    """Some inputs in progress: lines to submit, then ids to query, then jobs.

    Each request advances it; requests with a lost response are repeated, so that an input may
    run twice, but is yielded once.
    """

    def __init__(
        self,
        model: str,
        lines: Mapping[int, bytes],
        wait_seconds: float,
        shared: Shared,
        known: Mapping[int, str],
    ) -> None:
        """known has the ids of those that an earlier run has submitted."""
        self._model = model
        self._wait_seconds = wait_seconds
        self._shared = shared
        self._resumed = {index: lines[index] for index in known}
        self._lines = {index: line for index, line in lines.items() if index not in known}
        self._sent: list[int] = []
        self._indexes = {job_id: index for index, job_id in known.items()}
        self._submitting = self._probed = False
        self._accepted_at = 0.0
        self._open = 2 * len(self._lines) + len(known)
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
        if self._indexes:
            return self._ask()
        self._note_pace()
        return None

    def _ask(self) -> Call:
        """For all of them as they are settled; where that is soon, for the last one first."""
        self._accepted_at = self._accepted_at or self._shared.clock()
        quick = self._shared.quick
        if quick and not self._probed:
            self._probed = True
            return self._results([next(reversed(self._indexes))], _PROBE_SECONDS)
        self._probed = False
        ids = list(islice(self._indexes, self._shared.most_ids))
        return self._results(ids, 0.0 if quick else self._wait_seconds)

    def _results(self, ids: list[str], seconds: float) -> Call:
        return calls.results(ids, seconds, minimal=not self._shared.details)

    def _note_pace(self) -> None:
        if self._accepted_at:
            took = self._shared.clock() - self._accepted_at
            self._shared.quick = took < _QUICK_SECONDS

    def read(self, lines: Sequence[bytes]) -> list[Job]:
        """Process lines of the response; returns the jobs that they settle."""
        answers = orjson.loads(b"[%b]" % b",".join(filter(None, lines)))
        read = self._read_taken if self._submitting else self._read_results
        return read(answers)

    def asks_for_less(self, error: httpx.TransportError | ApiError) -> bool:
        """Whether the API has refused so many ids, and fewer are asked for next."""
        kind = str(error.problem.get("type", "")) if isinstance(error, ApiError) else ""
        if not kind.endswith("/too-many-ids") or self._shared.most_ids == 1:
            return False
        self._shared.most_ids = max(1, min(self._shared.most_ids, len(self._indexes)) // 2)
        return True

    def tell_pause(self, seconds: float, error: httpx.TransportError | ApiError | None) -> None:
        """Say why it pauses, if for long."""
        if seconds >= _TOLD_SECONDS and self._shared.on_pause is not None:
            self._shared.on_pause(str(error) if error else self._turned_away[1], seconds)

    def moved(self) -> bool:
        """Whether the requests since the last call of this made progress."""
        before, self._open = self._open, 2 * len(self._lines) + len(self._indexes)
        return self._open < before

    def give_up(self) -> list[Job]:
        """Settle the lines that were refused repeatedly as failed, with the last reason."""
        jobs = [self._refused(index, *self._turned_away) for index in self._lines]
        self._lines.clear()
        return jobs

    def _read_taken(self, answers: list[dict[str, Any]]) -> list[Job]:
        taken: list[tuple[int, str]] = []
        jobs = []
        for answer in answers:
            if answer["line"] < 1:  # of none: no more are taken, and the next request says why
                continue
            index = self._sent[answer["line"] - 1]
            if "id" in answer:
                taken.append((index, answer["id"]))
                self._lines.pop(index, None)
            elif job := self._turn_away(index, answer["error"]):
                jobs.append(job)
        self._indexes.update((job_id, index) for index, job_id in taken)
        if self._shared.manifest is not None:
            digests = self._shared.digests
            self._shared.manifest.submitted(
                (index, digests[index], job_id) for index, job_id in taken
            )
        return jobs

    def _turn_away(self, index: int, problem: Mapping[str, Any]) -> Job | None:
        """Note a refusal; the job that it settles, unless it is for the moment."""
        reason = str(problem.get("type", "")).rpartition("/")[2].replace("-", "_")
        why = (reason, str(problem.get("detail", "")))
        if problem.get("status") in _TURNED_AWAY:
            self._turned_away = why
            self.retry_after = float(problem.get("retry_after") or _PAUSE_SECONDS)
            return None
        self._lines.pop(index, None)
        return self._refused(index, *why)

    def _read_results(self, answers: list[dict[str, Any]]) -> list[Job]:
        return [job for answer in answers if (job := self._read_result(answer))]

    def _read_result(self, answer: dict[str, Any]) -> Job | None:
        unknown = "state" not in answer
        if answer.get("id") not in self._indexes or not (unknown or answer["state"] in TERMINAL):
            return None
        index = self._indexes.pop(answer["id"])
        resumed = self._resumed.pop(index, None) if self._resumed else None
        if unknown and resumed is not None:  # kept too long ago: it runs again
            self._lines[index] = resumed
            return None
        if unknown:
            return self._refused(index, "unknown_job", "its result is no longer kept")
        answer["index"] = index
        answer.setdefault("model", self._model)
        return cast("Job", answer)

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
        if error is not None and chunk.asks_for_less(error):
            return 0.0
        if error is not None:
            return self._after_errors.after(error)
        if chunk.retry_after is not None:
            return self._turned_away.pause(chunk.retry_after)
        return 0.0 if moved else _PAUSE_SECONDS / 10

    def _reset(self) -> None:
        patient = replace(self._policy, retries=self._policy.retries * _PATIENCE)
        self._turned_away = Attempts(patient, repeatable=True)
        self._after_errors = Attempts(self._policy, repeatable=True)


def refused_job(model: str, index: int, reason: str, message: str) -> Job:
    """A job that never was: its input was refused, here or by the API."""
    failure: Failure = {"reason": reason, "message": message}
    return {"id": "", "model": model, "state": "failed", "error": failure, "index": index}
