"""The client for event loops: `Client` with `await`, and with tasks in place of threads."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import httpx

from . import calls
from .calls import HOLD_SECONDS, SILENCE_SECONDS, SLACK_SECONDS, Call
from .chunk import Chunk, Patience
from .connections import AsyncConnections, check_process, http_options, limits_for
from .errors import ApiError, StillRunning, answer_of, error_of, result_of
from .feed import Feed
from .lines import LineReader
from .manifest import Manifest
from .operations import AsyncOperations
from .plan import MapOptions, OnError, OnPause, Plan
from .progress import open_bar
from .retries import Attempts, RetryPolicy
from .sse import EventReader
from .types import TERMINAL, Event, Job, JobPage, State, Token

__all__ = ("AsyncClient",)


class AsyncClient(AsyncOperations):
    """Submits jobs and waits for them, in one event loop.

    Jobs are returned as typed dicts, in the API's form. Raises ApiError for a problem document
    and httpx.HTTPError when there is no response, both only after as many retries as `retries`
    allows. The address and the key default to LANEFLEET_URL and LANEFLEET_API_KEY.
    """

    def __init__(
        self,
        base_url: str | None = None,
        timeout: float = 10.0,
        *,
        api_key: str | None = None,
        retries: int | RetryPolicy = 4,
        max_connections: int = 100,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """max_connections is how many requests are under way at once; others await their turn.

        http, when given, is used as it is, in this process alone.
        """
        self._policy = retries if isinstance(retries, RetryPolicy) else RetryPolicy(retries)
        self._timeout = timeout
        url, headers = calls.base_url_of(base_url), calls.headers_of(api_key)
        options = partial(http_options, url, timeout, headers, limits_for(max_connections))
        self._connections = AsyncConnections(
            lambda: httpx.AsyncClient(**options()), http, max_connections
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    async def submit(
        self,
        model: str,
        value: Any = None,
        *,
        wait: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Submit one input; with `wait`, return its result if it is done in that many seconds.

        Bytes, and the bytes of a path, are sent as an image. fields are those of `POST /v1/jobs`:
        params, priority, deadline, ..., or input_url in place of the value. A submit that is
        repeated, by a retry or by a call with the same idempotency_key, queues no second job.
        """
        return await self._job(calls.submit(model, value, wait, idempotency_key, fields))

    async def submit_file(
        self,
        model: str,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        wait: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Submit one file, as a form: its path, or what is open for reading bytes."""
        return await self._job(calls.submit_file(model, file, wait, idempotency_key, fields))

    async def get(self, job_id: str, *, wait: float = 0.0) -> Job:
        """Get a job, waiting up to `wait` seconds for it to be settled."""
        return await self._job(calls.get(job_id, wait))

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Wait until the job is settled, in any state; raises StillRunning after `timeout`."""
        began = time.monotonic()
        while True:
            left = HOLD_SECONDS if timeout is None else timeout - (time.monotonic() - began)
            job = await self.get(job_id, wait=max(min(left, HOLD_SECONDS), 0.0))
            if job["state"] in TERMINAL:
                return job
            if timeout is not None and time.monotonic() - began >= timeout:
                raise StillRunning(job, timeout)

    async def result(self, job_id: str, *, wait: float = 0.0) -> Any:
        """A job's result, within `wait` seconds; raises JobFailed, or StillRunning without one."""
        return result_of(await self.get(job_id, wait=wait), wait)

    async def list_jobs(
        self,
        *,
        model: str | None = None,
        state: State | None = None,
        created_after: str | datetime | None = None,
        created_before: str | datetime | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> JobPage:
        """One page of your jobs, newest first, without their results.

        Pass its `next_cursor`, while there is one, as `cursor` with the same filters.
        """
        filters: dict[str, Any] = {
            **{"model": model, "state": state, "limit": limit, "cursor": cursor},
            **{"created_after": created_after, "created_before": created_before},
            "labels": labels,
        }
        return cast("JobPage", await self._call(calls.list_jobs(filters)))

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job."""
        return await self._job(calls.cancel(job_id))

    async def retry(self, job_id: str) -> Job:
        """Return a dead job to its lane, with the same id."""
        return await self._job(calls.retry(job_id))

    def map(
        self,
        model: str,
        inputs: Iterable[Any] | AsyncIterable[Any],
        *,
        ordered: bool = True,
        on_error: OnError = "raise",
        progress: bool = False,
        window: int = 4096,
        chunk: int = 512,
        manifest: Manifest | str | os.PathLike[str] | None = None,
        details: bool = True,
        on_pause: OnPause | None = None,
        **fields: Any,
    ) -> AsyncGenerator[Job, None]:
        """Run the model over any number of inputs; yields a settled job for each.

        In order, or with ordered=False as they are done; `job["index"]` is the input's index.
        Inputs are read as results are consumed: at most `window` are in progress, submitted
        `chunk` at a time. A job without a result raises JobFailed, or is yielded like the others
        with on_error="return", or left out with "skip". After an early stop the submitted jobs
        still run; with a `manifest`, a file, the same call goes on from there and yields the rest.
        With details=False the jobs have id, model, state, and result or error alone, which costs
        both sides less. on_pause is told why no inputs are taken for a while, and for how long.

        Inputs of an asynchronous generator are submitted as they come; others are read in the event
        loop, a chunk at a time, so that they should not wait for anything.
        """
        options = MapOptions(ordered, on_error, window, chunk, details, on_pause)
        calls.dump_json(fields)
        return self._map(model, inputs, fields, options, progress, manifest)

    async def events(self, job_id: str) -> AsyncGenerator[Event, None]:
        """Follow a job: its past events, then each new one, until it is settled.

        After a lost connection it is resumed at the same event. What a job says: `tokens`.
        """
        last_id: str | None = None
        attempts = Attempts(self._policy, repeatable=True)
        while True:
            try:
                async with aclosing(self._events(job_id, last_id)) as events:
                    async for event in events:
                        last_id = event.id
                        attempts = Attempts(self._policy, repeatable=True)
                        if not isinstance(event, Token):
                            yield event
                            if event.job["state"] in TERMINAL:
                                return
                # Ended early but regularly, as every stream does after its time limit.
                pause = self._policy.first_pause_seconds
            except (httpx.TransportError, ApiError) as exc:
                pause = attempts.after(exc)
            await asyncio.sleep(pause)

    stream = events
    """An older name of `events`."""

    async def _map(
        self,
        model: str,
        inputs: Iterable[Any] | AsyncIterable[Any],
        fields: dict[str, Any],
        options: MapOptions,
        progress: bool,
        manifest: Manifest | str | os.PathLike[str] | None,
    ) -> AsyncGenerator[Job, None]:
        source = Feed(inputs, options.chunk) if isinstance(inputs, AsyncIterable) else inputs
        own = None if manifest is None or isinstance(manifest, Manifest) else Manifest(manifest)
        plan = Plan(model, source, fields, options, own or cast("Manifest | None", manifest))
        arrived: asyncio.Queue[list[Job] | BaseException] = asyncio.Queue()
        tasks: set[asyncio.Task[None]] = set()
        if isinstance(source, Feed):
            tasks.add(asyncio.create_task(source.run(arrived)))
        bar = open_bar(progress, model, inputs)
        try:
            while True:
                while (chunk := plan.next_chunk()) is not None:
                    task = asyncio.create_task(self._run_chunk(chunk, arrived))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                if plan.done:
                    plan.finish()
                    return
                if isinstance(news := plan.take_refused() or await arrived.get(), BaseException):
                    raise news
                for job in plan.outcomes(news, bar.advance):
                    yield job
        finally:
            await _end(tasks)
            bar.close()
            if own is not None:
                own.end()

    async def _run_chunk(
        self, chunk: Chunk, arrived: asyncio.Queue[list[Job] | BaseException]
    ) -> None:
        patience = Patience(self._policy)
        try:
            while (call := chunk.next_call()) is not None:
                error: httpx.TransportError | ApiError | None = None
                try:
                    async with aclosing(self._lines(call)) as answer:
                        async for lines in answer:
                            if jobs := chunk.read(lines):
                                arrived.put_nowait(jobs)
                except (httpx.TransportError, ApiError) as exc:
                    error = exc
                pause = patience.pause(chunk, error)
                if pause is None:
                    arrived.put_nowait(chunk.give_up())
                elif pause:
                    chunk.tell_pause(pause, error)
                    await asyncio.sleep(pause)
        except Exception as exc:  # noqa: BLE001 - raised again in the caller's task
            arrived.put_nowait(exc)

    async def _lines(self, call: Call) -> AsyncGenerator[list[bytes], None]:
        """The lines of a streamed response, as they arrive."""
        reader = LineReader()
        async with aclosing(self._stream(call)) as parts:
            async for part in parts:
                if lines := reader.feed(part):
                    yield lines

    async def _events(
        self, job_id: str, last_id: str | None
    ) -> AsyncGenerator[Event | Token, None]:
        reader = EventReader()
        call = calls.events(job_id, last_id)
        async with aclosing(self._stream(call, SILENCE_SECONDS)) as parts:
            async for part in parts:
                for event in reader.feed(part):
                    yield event

    async def _stream(
        self, call: Call, timeout: float | None = None
    ) -> AsyncGenerator[bytes, None]:
        pool = self._connections.pool()
        timeout = timeout or self._timeout_of(call)
        async with (
            pool.turn(call.lasting),
            pool.http.stream(call.method, call.path, timeout=timeout, **call.options) as response,
        ):
            if response.is_error:
                await response.aread()
                raise error_of(response)
            async for part in response.aiter_bytes():
                yield part
                check_process(pool.pid)

    async def _job(self, call: Call) -> Job:
        return cast("Job", await self._call(call))

    async def _call(self, call: Call) -> Any:
        # Built once: a form that is built again has another boundary, and so would be
        # another body under the same Idempotency-Key.
        pool = self._connections.pool()
        timeout = self._timeout_of(call)
        request = pool.http.build_request(call.method, call.path, timeout=timeout, **call.options)
        attempts = Attempts(self._policy, repeatable=call.repeatable)
        while True:
            try:
                async with pool.turn():
                    response = await pool.http.send(request)
            except httpx.TransportError as exc:
                error: Exception = exc
                pause = attempts.after_error(exc)
            else:
                if not response.is_error:
                    return answer_of(response)
                error = error_of(response)
                pause = attempts.after_status(response.status_code, response.headers)
            if pause is None:
                raise error
            await asyncio.sleep(pause)

    def _timeout_of(self, call: Call) -> float:
        return self._timeout if not call.wait else call.wait + SLACK_SECONDS


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel them until they are over, so that whatever they had open is closed.

    Once is not enough before Python 3.12, where `asyncio.wait_for`, which the caller's generator
    may use, can swallow it.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.1)
