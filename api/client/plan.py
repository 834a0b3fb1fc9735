"""The bookkeeping of `map`, without I/O, shared by both clients.

Inputs are read as there is room for them and their jobs yielded in turn, so that memory is bounded
by one window whatever the number of inputs. An input counts in the window from its submit until
the caller has the job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from .calls import dump_json, json_input
from .chunk import Chunk, Shared, refused_job
from .errors import JobFailed
from .manifest import Manifest, digest_of
from .types import Job

__all__ = ("NOT_YET", "Input", "MapOptions", "OnError", "OnPause", "Plan")

_CHUNK_BYTES = 8 * 1024 * 1024
NOT_YET = object()
"""In place of an input, by an iterator that has none at the moment."""
OnError = Literal["raise", "return", "skip"]


OnPause = Callable[[str, float], None]
"""Is told why no inputs are taken at the moment, and in how many seconds they are sent again."""


@dataclass(frozen=True, slots=True)
class MapOptions:
    """The options of `map`."""

    ordered: bool = True
    on_error: OnError = "raise"
    window: int = 4096
    """Most inputs that are submitted and not yielded yet."""
    chunk: int = 512
    """Inputs in one submit."""
    details: bool = True
    """Whether jobs have more than their id, model, state, and result or error."""
    on_pause: OnPause | None = None
    wait_seconds: float = 10.0
    """How long one request for results waits."""

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.window < self.chunk:
            raise ValueError("`chunk` must be at least 1, and `window` at least `chunk`")
        if self.on_error not in ("raise", "return", "skip"):
            raise ValueError('`on_error` is "raise", "return" or "skip"')


class Input(NamedTuple):
    """An input of `map` with fields of its own, such as `params`."""

    value: Any
    fields: Mapping[str, Any]


class Plan:
    """Decides which inputs are submitted next, and which jobs may be yielded."""

    def __init__(
        self,
        model: str,
        inputs: Iterable[Any],
        fields: Mapping[str, Any],
        options: MapOptions,
        manifest: Manifest | None = None,
    ) -> None:
        self._model = model
        self._inputs: Iterator[Any] = iter(inputs)
        self._fields = dict(fields)
        self._before_input = dump_json({"model": model, **fields})[:-1] + b',"input":'
        """Of an input without fields of its own."""
        self._options = options
        self._taken = 0
        self._given = 0
        self._ready: dict[int, Job | None] = {}
        """In order: jobs that others are before, and None for what an earlier run has done."""
        self._spare: bytes | None = None
        self._exhausted = False
        self._refused: list[Job] = []
        self._known: dict[int, str] = {}
        self._shared = Shared(manifest, options.details, options.on_pause)

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
        size, most = 0, self._options.chunk
        while len(lines) < most and len(self._refused) < most:
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
        if not lines:
            return None
        known = {index: self._known.pop(index) for index in [*self._known] if index in lines}
        return Chunk(self._model, lines, self._options.wait_seconds, self._shared, known)

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
        while self._given in self._ready:
            job = self._ready.pop(self._given)
            self._given += 1
            if job is not None:
                out.append(job)
        return out

    def finish(self) -> None:
        """Write the last of the manifest."""
        if self._shared.manifest is not None:
            self._shared.manifest.commit()

    def outcomes(self, news: Sequence[Job], advance: Callable[[int], None]) -> Iterator[Job]:
        """The jobs to yield after this news. One is done when the next is asked for.

        Raises JobFailed by `on_error`, ManifestError where that cannot be written.
        """
        manifest, on_error = self._shared.manifest, self._options.on_error
        for job in self.settle(news):
            failed = job["state"] != "succeeded"
            if failed and on_error == "raise":
                raise JobFailed(job)
            advance(1)
            if not (failed and on_error == "skip"):
                yield job
            if manifest is not None:
                index = job["index"]
                manifest.done(index, self._shared.digests.pop(index), job["state"])
        if manifest is not None and manifest.due:
            manifest.commit()

    def _next_line(self) -> bytes | None:
        """The next input as a line, empty where none is to be sent; None where none is there."""
        if self._spare is not None:
            line, self._spare = self._spare, None
            return line
        for value in self._inputs:
            if value is NOT_YET:
                return None
            try:
                line = self._line_of(value)
            except Exception as exc:  # noqa: BLE001 - what an input may raise, being sent
                why = f"{type(exc).__name__}: {exc}"
                self._refused.append(refused_job(self._model, self._taken, "invalid_input", why))
                line = b""
            return self._unless_done(line)
        self._exhausted = True
        return None

    def _line_of(self, value: Any) -> bytes:
        own: Mapping[str, Any] = {}
        if isinstance(value, Input):
            value, own = value
        if isinstance(value, Exception):  # in place of an input that cannot be read
            raise value
        if not own and "input_url" not in self._fields:
            return self._before_input + dump_json(json_input(value)) + b"}\n"
        body = {"model": self._model, **self._fields, **own}
        if "input_url" not in body:
            body["input"] = json_input(value)
        return dump_json(body) + b"\n"

    def _unless_done(self, line: bytes) -> bytes:
        """The line; empty where an earlier run has done it. Its job's id, if any, is noted."""
        shared, number = self._shared, self._taken
        if shared.manifest is None:
            return line
        digest = digest_of(line)
        job_id, done = shared.manifest.check(number, digest)
        if done:
            self._refused = [job for job in self._refused if job["index"] != number]
            self._skip(number)
            return b""
        shared.digests[number] = digest
        if job_id:
            self._known[number] = job_id
        return line

    def _skip(self, number: int) -> None:
        if not self._options.ordered or number == self._given:
            self._given += 1
        else:
            self._ready[number] = None
