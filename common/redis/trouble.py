"""What an error of Redis means: to somebody with work, and to who runs the fleet.

A dozen threads meet the same outage at once and try again several times a second. So a process
says it once for all of them, with its cause in plain words, and then ever more rarely.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import structlog
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from common.errors import QueueFull, QueueUnavailable, Refused

log = structlog.get_logger(__name__)

Cause = Literal[
    "authentication",
    "permission",
    "out_of_memory",
    "read_only",
    "no_writes",
    "loading",
    "unreachable",
    "other",
]

_NO_WRITES = ("MISCONF", "NOREPLICAS")
"""The words an answer begins with; those that redis-py has a class for lose theirs."""
_CAUSES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], Cause], ...] = (
    ((AuthenticationError, AuthenticationWrongNumberOfArgsError), "authentication"),
    (NoPermissionError, "permission"),
    (OutOfMemoryError, "out_of_memory"),
    (ReadOnlyError, "read_only"),
    (BusyLoadingError, "loading"),
    ((RedisConnectionError, RedisTimeoutError, OSError), "unreachable"),
)
"""The first that fits: some are kinds of others."""
_SAID: dict[Cause, str] = {
    "authentication": "Redis refuses the login that the fleet has for it",
    "permission": "Redis forbids the fleet's user a command that it needs",
    "out_of_memory": "Redis' memory is full; workers are draining it",
    "read_only": "Redis is a replica now and takes no writes",
    "no_writes": "Redis takes no writes: it cannot save, or lacks replicas",
    "loading": "Redis is loading its data",
    "unreachable": "Redis cannot be reached",
    "other": "Redis did not do what it was asked",
}
_FIRST_PAUSE_SECONDS: Final = 10.0
_LONGEST_PAUSE_SECONDS: Final = 300.0
_QUIET_SECONDS: Final = 3.0
_OVER_SECONDS: Final = 60.0
"""Trouble that was not met for so long is new when it comes again."""


def cause_of(error: Exception | None) -> Cause:
    """Why Redis did not do what it was asked; None is of a server that never answered."""
    if error is None:
        return "unreachable"
    for kinds, cause in _CAUSES:
        if isinstance(error, kinds):
            return cause
    return "no_writes" if _names_no_writes(error) else "other"


def sentence_of(error: Exception | None) -> str:
    """The same for people: without addresses, names or what was sent."""
    return _SAID[cause_of(error)]


def says_no(error: Exception) -> bool:
    """Whether the server itself answered that it takes no writes now, or not from us."""
    if isinstance(error, ReadOnlyError | OutOfMemoryError | AuthenticationError):
        return True
    return _names_no_writes(error)


def kind_of(error: Exception) -> type[Refused]:
    """The refusal for this error of Redis."""
    return QueueFull if isinstance(error, OutOfMemoryError) else QueueUnavailable


def refusal_of(error: Exception | None, text: str, seconds: float | None = None) -> Refused:
    """What somebody with work is told, with the cause."""
    kind = QueueUnavailable if error is None else kind_of(error)
    refused = kind(f"{sentence_of(error)}; {text}", seconds)
    refused.cause = cause_of(error)
    return refused


def _names_no_writes(error: Exception) -> bool:
    return isinstance(error, ResponseError) and any(word in str(error) for word in _NO_WRITES)


@dataclass(slots=True)
class _Met:
    last: float
    say_again_at: float
    pause: float
    unsaid: int = 0


class TroubleLog:
    """Says each cause when it is first met, and then at pauses that double."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._met: dict[Cause, _Met] = {}
        self._lock = threading.Lock()

    def note(self, during: str, error: Exception, **facts: object) -> None:
        """Somebody met this error while doing something; the line is left out if said lately."""
        cause, now = cause_of(error), self._clock()
        with self._lock:
            met = self._met.get(cause)
            if met is None or now - met.last > _OVER_SECONDS + met.pause:
                self._met[cause] = _Met(now, now + _FIRST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS)
                unsaid = 0
            elif now < met.say_again_at:
                met.last, met.unsaid = now, met.unsaid + 1
                return
            else:
                unsaid, met.unsaid, met.last = met.unsaid, 0, now
                met.pause = min(met.pause * 2, _LONGEST_PAUSE_SECONDS)
                met.say_again_at = now + met.pause
        more = {"unsaid": unsaid} if unsaid else {}
        log.warning(
            "redis_in_trouble",
            cause=cause,
            text=_SAID[cause],
            during=during,
            error=str(error)[:200] or type(error).__name__,
            **facts,
            **more,
        )

    def over(self) -> bool:
        """Redis answered; whether all is well, for a while by now, which is said once.

        A forbidden command stays forbidden, whatever else is answered.
        """
        quiet_since = self._clock() - _QUIET_SECONDS
        with self._lock:
            left = {cause: met for cause, met in self._met.items() if cause != "permission"}
            if any(met.last > quiet_since for met in left.values()):
                return False
            for cause in left:
                del self._met[cause]
        if left:
            log.info("redis_answers_again", after=sorted(left))
        return True


TROUBLE = TroubleLog()
"""The process's."""


def is_of_redis(error: object) -> bool:
    """Whether this is what redis-py raises, or the system where nobody listens."""
    return isinstance(error, RedisError | OSError)
