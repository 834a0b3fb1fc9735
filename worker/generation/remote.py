"""One job of a lane whose model runs in a server: from its start to its end.

It runs on the server's loop. A server that ends amid answers takes none of their attempts: they go
on once it is back. As one of them may be what ended it, those that saw it end twice go on one at a
time, alone until their first token, and then to their end; who is alone at another end is at fault.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from common.errors import AttemptsExhausted, ServerFailed
from common.generation.said import Delta as SaidDelta
from worker.jobs.execution import Execution
from worker.lanes.lane import Lane
from worker.models.remote import Answer, Delta, RemoteGenerator

_ALONE_TO_FIRST_TOKEN = 2
_ALONE_TO_END = 3


class ServerIsAway(Exception):
    """The server has not come back for so long that the job should go on elsewhere."""


@dataclass(eq=False, slots=True)
class Run:
    """One job in a server."""

    lane: Lane
    execution: Execution
    handler: RemoteGenerator
    answer: Answer
    began: float
    counted_by: RemoteGenerator
    """The model of its lane when it was taken: an alias may have moved since it was decoded."""
    deaths: int = 0
    """Ends of its server that it saw."""
    first_at: float = 0.0
    """When its first token was there, steady time."""
    entry: int = 0
    """The number of the last entry of its stream."""
    future: Future[None] | None = None
    leaving: bool = False
    """Whether it is closed so that it goes on elsewhere."""
    _closed: bool = False
    _deltas: dict[int, SaidDelta] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def said(self, delta: Delta) -> None:
        """Add this to what is to be written. On the server's loop."""
        with self._lock:
            if self._closed:
                return
            found = self._deltas.setdefault(delta.choice, SaidDelta(delta.choice))
            found.tokens += delta.tokens
            found.text += delta.text
            found.logprobs += delta.logprobs
            found.finish = delta.finish or found.finish

    def take_said(self) -> list[SaidDelta]:
        """What is to be written; it counts as written."""
        with self._lock:
            taken, self._deltas = list(self._deltas.values()), {}
        return taken

    def cut_short(self) -> None:
        """End the choices that go on, by the deadline. It has left its server."""
        for index, choice in enumerate(self.answer.choices):
            if not choice.finish:
                choice.finish = "deadline"
                if not self.answer.streamed:
                    continue
                with self._lock:
                    delta = self._deltas.setdefault(index, SaidDelta(index))
                    delta.finish = "deadline"

    def close(self) -> None:
        """Close its stream; nothing is said any more. On any thread."""
        with self._lock:
            self._closed = True
        if self.future is not None:
            self.future.cancel()


class Gate:
    """Lets jobs into a server together, or one alone; on its loop."""

    def __init__(self) -> None:
        self._together = 0
        self._alone = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        """Who wants to be alone; nobody else enters while one waits."""
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def enter(self, *, alone: bool) -> AsyncIterator[Callable[[], None]]:
        """Be inside; what it gives lets others in although it is still there."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        is_alone = alone
        async with self._changed:
            if alone:
                self._waiting.append(mine)
            try:
                await self._changed.wait_for(lambda: self._may_enter(mine, alone=alone))
            finally:
                if alone:
                    self._waiting.remove(mine)
                    self._changed.notify_all()
            self._alone = alone
            self._together += not alone

        def share() -> None:
            nonlocal is_alone
            if is_alone:
                is_alone, self._alone = False, False
                self._together += 1
                self._later = asyncio.ensure_future(self._notify())

        try:
            yield share
        finally:
            if is_alone:
                self._alone = False
            else:
                self._together -= 1
            await asyncio.shield(self._notify())

    def _may_enter(self, mine: asyncio.Future[None], *, alone: bool) -> bool:
        if self._alone:
            return False
        if alone:
            return not self._together and self._waiting[0] is mine
        return not self._waiting

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def conduct(
    run: Run, gate: Gate, tell: Callable[[Run], None], now: Callable[[], float]
) -> None:
    """Have the server answer to the end, over its restarts; tell is called at each addition.

    Raises what ends the job otherwise.
    """
    error: ServerFailed | None = None
    while True:
        alone = run.deaths >= _ALONE_TO_FIRST_TOKEN
        async with gate.enter(alone=alone) as share:

            def emit(delta: Delta) -> None:
                if not run.first_at:
                    run.first_at = now()
                nonlocal alone
                if alone and run.deaths < _ALONE_TO_END:
                    share()
                    alone = False
                if run.answer.streamed:
                    run.said(delta)
                    tell(run)

            if error is not None:
                await _recovered(run, error)  # it may have ended again, over another, meanwhile
            try:
                await run.handler.answer(run.answer, emit)
                return
            except ServerFailed as exc:
                error = exc
        if not await _recovered(run, error):
            raise error
        if alone:
            raise AttemptsExhausted(
                f"gave up: the model's server ended {run.deaths + 1} times over this job, the last "
                f"time alone: {error}"
            ) from error
        run.deaths += 1


async def _recovered(run: Run, error: ServerFailed) -> bool:
    """Wait for the server; false where it is well, and so the job may be to blame."""
    try:
        return await asyncio.wait_for(run.handler.recovered(), run.handler.patience_seconds)
    except TimeoutError:
        run.deaths += 1
        raise ServerIsAway from error
