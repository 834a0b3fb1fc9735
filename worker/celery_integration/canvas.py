"""Celery's canvas: the successors of a settled job, made by Celery's own code.

Callbacks and chains get the result as their first argument, errbacks the job's id, and a
chord counts the job in Celery's own keys, which its workers use too. Nothing is sent
here: the messages are recorded, and pushed by the script that removes the outbox entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog
from celery import group, signature, states
from celery.app.task import Context
from redis import Redis

from common.broker import create_app
from common.errors import FleetError
from common.jobs.message import TASK_NAME
from common.settings import Settings
from worker.celery_integration.recorder import Recorded, RecordingTransport, recording
from worker.jobs.next_steps import NextSteps

log = structlog.get_logger(__name__)

_DEFAULT_QUEUE = "celery"
"""Of a successor that names none, as for a stock Celery application."""


class ChordClaimedError(Exception):
    """Another worker is about to send the chord's body, or was when it died; look again later."""


@dataclass
class Successors:
    """What one settled job leads to."""

    messages: Recorded = field(default_factory=list)
    claim: str = ""
    """The token under which a chord's body is among the messages; or empty."""
    chord: str = ""
    """The prefix of that chord's keys."""
    done_seconds: int = 0
    """How long the chord's claim says that it is done."""
    spent: list[str] = field(default_factory=list)
    """Keys to delete once the messages are sent."""


class Canvas:
    """Makes successors. `name_children` may be called on any thread, `successors` on one."""

    def __init__(self, redis_url: str, settings: Settings) -> None:
        app = create_app(redis_url, settings)
        app.conf.update(
            broker_transport=RecordingTransport,
            broker_url="localhost",
            task_default_queue=_DEFAULT_QUEUE,
        )
        app.tasks.pop(TASK_NAME)  # or it would be called here as an errback
        self._app = app
        self._backend = app.backend
        self._backend._call_task_errbacks = self._call_errbacks  # also those of a chord
        self._chords = _ChordScripts(self._backend)

    def name_children(self, steps: NextSteps) -> list[Any]:
        """Give ids to what follows a success; returns them as Celery stores `children`."""
        callbacks, chain = steps.get("callbacks") or [], steps.get("chain") or []
        children = [self._name(callbacks, index) for index in range(len(callbacks))]
        if chain:
            children.append(self._name(chain, -1))  # the next one; the list is reversed
        return children

    def _name(self, sent: list[Any], index: int) -> Any:
        successor = signature(sent[index], app=self._app)
        child = successor.freeze().as_tuple()
        sent[index] = dict(successor)
        return child

    def successors(self, job_id: str, result: dict[str, Any], steps: NextSteps) -> Successors:
        """What this job, which ended with this result as Celery stores it, leads to.

        Raises ChordClaimedError, RedisError, or what Celery raises for signatures that are none.
        """
        request = Context(
            {"root_id": job_id, **steps, "id": job_id, "task": TASK_NAME, "delivery_info": {}},
            args=[],
            kwargs={},
        )
        self._app.set_current()  # of this thread; parts of a canvas ask for it
        made = self._chords.made = Successors()
        with recording() as messages, self._app.connection_for_write():
            made.messages = messages
            self._after(request, result["status"], result["result"])
        return made

    def _after(self, request: Context, status: str, result: Any) -> None:
        if status == states.SUCCESS:
            self._succeeded(request, result)
        else:
            self._failed(request, status, self._backend.exception_to_python(result))

    def _succeeded(self, request: Context, result: Any) -> None:
        for callback in request.callbacks or ():
            self._start(callback, result, request)
        if chain := request.chain:
            self._start(chain[-1], result, request, chain=chain[:-1])
        if request.chord:
            self._backend.on_chord_part_return(request, states.SUCCESS, result)

    def _start(self, step: Any, result: Any, request: Context, **chain: Any) -> None:
        """Send a successor; one that cannot be sent fails, and with it all that waits for it."""
        try:
            successor = signature(step, app=self._app)
            successor.apply_async((result,), parent_id=request.id, root_id=request.root_id, **chain)
        except (FleetError, LookupError, TypeError, ValueError, AttributeError) as exc:
            log.warning("successor_refused", job_id=request.id, error=str(exc))
            steps = [*chain.get("chain", ()), step]
            known = [one for one in reversed(steps) if isinstance(one, dict) and "options" in one]
            self._backend._fail_chain(_with_parts(known), exc)

    def _failed(self, request: Context, status: str, error: BaseException) -> None:
        """As Celery does: a chain's later steps fail with it, unless it was revoked."""
        if request.chord:
            self._backend.on_chord_part_return(request, status, error)
        if status == states.FAILURE:
            self._backend._fail_chain(_with_parts(request.chain or ()), error, state=status)
            if request.errbacks:
                self._call_errbacks(request, error, None)

    def _call_errbacks(self, request: Context, _error: BaseException, _traceback: Any) -> None:
        """Send them all. Celery calls here what it has registered, which for chains and chords
        is a task that takes other arguments: they would be lost.
        """
        root_id = request.root_id or request.id
        errbacks = [signature(one, app=self._app) for one in request.errbacks]
        sent = group(errbacks, app=self._app)
        sent.apply_async((request.id,), parent_id=request.id, root_id=root_id)


def _with_parts(steps: Iterable[Any]) -> list[Any]:
    """These steps, and what groups and chains among them consist of: their parts are waited for,
    and Celery fails only what has an id of its own.
    """
    found, left = [], deque(steps)
    while left:
        step = left.popleft()
        found.append(step)
        kwargs = step.get("kwargs") or {}
        kind = step.get("subtask_type")
        if kind in ("group", "chain"):
            left.extend(kwargs.get("tasks") or ())
        elif kind == "chord" and (body := kwargs.get("body")):
            left.extend(_with_parts([body])[1:])  # Celery itself fails the body
    return found


class _ChordScripts:
    """Stands between Celery's Redis backend and its scripts that count a chord's parts.

    The claim on the body is kept until the body is pushed, and only then given up; Celery's
    own worker would give it up here.
    """

    def __init__(self, backend: Any) -> None:
        self.made = Successors()
        self._part_return = backend._chord_part_return_script
        backend.client = _KeepsKeys(backend.client, self._spend)
        backend._chord_part_return_script = self._count_part
        backend._chord_cleanup_script = self._keep_claim

    def _count_part(self, **call: Any) -> Any:
        reply = self._part_return(**call)
        ready, more, size, claimed = reply
        if ready >= 0 and size and ready == int(size) + int(more or 0) and not claimed:
            raise ChordClaimedError
        return reply

    def _keep_claim(self, *, keys: list[str], args: list[Any], client: Any) -> int:
        del client
        self.made.chord = _text(keys[0]).removesuffix(".c")
        self.made.claim, self.made.done_seconds = _text(args[0]), int(args[1])
        return 1

    def _spend(self, *keys: Any) -> int:
        self.made.spent.extend(map(_text, keys))
        return len(keys)


class _KeepsKeys:
    """A Redis client that deletes nothing yet."""

    def __init__(self, client: Redis, delete: Callable[..., int]) -> None:
        self._client = client
        self.delete = delete

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def _text(key: str | bytes) -> str:
    return key.decode() if isinstance(key, bytes) else key
