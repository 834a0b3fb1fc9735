"""Text from a prompt, whole or token by token. For both clients.

`Reading` decides what is asked next and what the answers mean; the clients only send and receive.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, cast

import httpx

from . import generation_calls as calls
from .calls import SILENCE_SECONDS, Call
from .errors import ApiError, JobFailed
from .retries import Attempts, RetryPolicy
from .sse import EventReader
from .types import TERMINAL, Generation, Job, Token

__all__ = ("AsyncGenerationOperations", "GenerationOperations")

OnDisconnect = Literal["continue", "cancel"]


class Reading:
    """One job's text as it is read: over several connections where they are lost."""

    def __init__(self, policy: RetryPolicy, first: Call, job_id: str, on_disconnect: str) -> None:
        self._policy = policy
        self._first = first
        self._job_id = job_id
        self._on_disconnect = on_disconnect
        self._last_id: str | None = None
        self._attempts = Attempts(policy, repeatable=True)
        self.done = False

    def next_call(self) -> tuple[Call, EventReader]:
        """What to ask next: for the stream, or from where it broke."""
        if self._last_id is None:
            return self._first, EventReader()
        job_id, last_id = self._job_id, self._last_id
        return calls.tokens(job_id, last_id, self._on_disconnect), EventReader()

    def take(self, reader: EventReader, part: bytes) -> Iterator[Token]:
        """The tokens in a part of the answer; raises JobFailed where the job has no result."""
        for event in reader.feed(part):
            self._last_id = event.id or self._last_id
            self._attempts = Attempts(self._policy, repeatable=True)
            if isinstance(event, Token):
                yield event
                continue
            self._job_id = event.job["id"]
            if event.job["state"] in TERMINAL:
                self.done = True
                if event.job["state"] != "succeeded":
                    raise JobFailed(event.job)

    def pause_after(self, error: httpx.TransportError | ApiError | None) -> float:
        """How long to wait before the next call; raises the error where there is none."""
        if error is None:  # a stream ends early, but regularly, after its time limit
            return self._policy.first_pause_seconds
        return self._attempts.after(error)


class GenerationOperations(ABC):
    """Of `Client`."""

    _policy: RetryPolicy

    @abstractmethod
    def _call(self, call: Call) -> Any: ...

    @abstractmethod
    def _stream(self, call: Call, timeout: float | None = None) -> Iterator[bytes]: ...

    @abstractmethod
    def wait(self, job_id: str, timeout: float | None = None) -> Job: ...

    def generate(
        self,
        text: str,
        model: str | None = None,
        *,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Generation:
        """The text that goes on from a prompt; raises StillRunning after `timeout` seconds.

        options are those of `POST /v1/generate`: max_length, temperature, top_p, seed, stop, ...,
        and the fields of a job, as priority. Raises JobFailed, or ApiError where the API says why.
        """
        call = calls.generate(text, model, options, timeout, idempotency_key)
        answer = self._call(call)
        if "generated_text" in answer:
            return cast("Generation", answer)
        return generation_of(self.wait(answer["id"], timeout))

    def generate_stream(
        self,
        text: str,
        model: str | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Iterator[Token]:
        """The same, as it is made: yields what is new, until it ends. Raises JobFailed.

        Whoever stops reading ends the job; with `on_disconnect="continue"` it goes on, and a lost
        connection is resumed.
        """
        first = calls.generate_stream(text, model, options, idempotency_key)
        chosen = options.get("on_disconnect") or "cancel"
        return self._read(Reading(self._policy, first, "", chosen))

    def tokens(
        self,
        job_id: str,
        *,
        last_id: str | None = None,
        on_disconnect: OnDisconnect = "continue",
    ) -> Iterator[Token]:
        """What a job says, from its beginning or after the token of this id. Raises JobFailed.

        A job that was submitted without `stream` says all at its end.
        """
        first = calls.tokens(job_id, last_id, on_disconnect)
        return self._read(Reading(self._policy, first, job_id, on_disconnect))

    def batch_generate(
        self, requests: Sequence[Mapping[str, Any]], *, batch_id: str | None = None
    ) -> dict[str, Any]:
        """Several generations at once, each a body of `/v1/generate`; one that fails is an
        `error` in its place.
        """
        return cast("dict[str, Any]", self._call(calls.batch_generate(requests, batch_id)))

    def _read(self, reading: Reading) -> Iterator[Token]:
        while not reading.done:
            error: httpx.TransportError | ApiError | None = None
            call, reader = reading.next_call()
            try:
                for part in self._stream(call, SILENCE_SECONDS):
                    yield from reading.take(reader, part)
                    if reading.done:
                        return
            except (httpx.TransportError, ApiError) as exc:
                error = exc
            time.sleep(reading.pause_after(error))


class AsyncGenerationOperations(ABC):
    """Of `AsyncClient`."""

    _policy: RetryPolicy

    @abstractmethod
    async def _call(self, call: Call) -> Any: ...

    @abstractmethod
    def _stream(self, call: Call, timeout: float | None = None) -> AsyncGenerator[bytes, None]: ...

    @abstractmethod
    async def wait(self, job_id: str, timeout: float | None = None) -> Job: ...

    async def generate(
        self,
        text: str,
        model: str | None = None,
        *,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Generation:
        """The text that goes on from a prompt; raises StillRunning after `timeout` seconds.

        options are those of `POST /v1/generate`: max_length, temperature, top_p, seed, stop, ...,
        and the fields of a job, as priority. Raises JobFailed, or ApiError where the API says why.
        """
        call = calls.generate(text, model, options, timeout, idempotency_key)
        answer = await self._call(call)
        if "generated_text" in answer:
            return cast("Generation", answer)
        return generation_of(await self.wait(answer["id"], timeout))

    def generate_stream(
        self,
        text: str,
        model: str | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> AsyncIterator[Token]:
        """The same, as it is made: yields what is new, until it ends. Raises JobFailed.

        Whoever stops reading ends the job; with `on_disconnect="continue"` it goes on, and a lost
        connection is resumed.
        """
        first = calls.generate_stream(text, model, options, idempotency_key)
        chosen = options.get("on_disconnect") or "cancel"
        return self._read(Reading(self._policy, first, "", chosen))

    def tokens(
        self,
        job_id: str,
        *,
        last_id: str | None = None,
        on_disconnect: OnDisconnect = "continue",
    ) -> AsyncIterator[Token]:
        """What a job says, from its beginning or after the token of this id. Raises JobFailed.

        A job that was submitted without `stream` says all at its end.
        """
        first = calls.tokens(job_id, last_id, on_disconnect)
        return self._read(Reading(self._policy, first, job_id, on_disconnect))

    async def batch_generate(
        self, requests: Sequence[Mapping[str, Any]], *, batch_id: str | None = None
    ) -> dict[str, Any]:
        """Several generations at once, each a body of `/v1/generate`; one that fails is an
        `error` in its place.
        """
        return cast("dict[str, Any]", await self._call(calls.batch_generate(requests, batch_id)))

    async def _read(self, reading: Reading) -> AsyncGenerator[Token, None]:
        while not reading.done:
            error: httpx.TransportError | ApiError | None = None
            call, reader = reading.next_call()
            try:
                async with aclosing(self._stream(call, SILENCE_SECONDS)) as parts:
                    async for part in parts:
                        for token in reading.take(reader, part):
                            yield token
                        if reading.done:
                            return
            except (httpx.TransportError, ApiError) as exc:
                error = exc
            await asyncio.sleep(reading.pause_after(error))


def generation_of(job: Job) -> Generation:
    """The answer of `/v1/generate` from a settled job; raises JobFailed where it has no result."""
    if job["state"] != "succeeded":
        raise JobFailed(job)
    result = job["result"]
    answer: dict[str, Any] = {
        "generated_text": result["text"],
        "inference_time": job.get("infer_ms", 0.0) / 1000,
        "model_version": job.get("version"),
        "request_id": job["id"],
    }
    also = ("finish_reason", "usage", "seed", "choices")
    answer |= {name: result[name] for name in also if name in result}
    return cast("Generation", answer)
