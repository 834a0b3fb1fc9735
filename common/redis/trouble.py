"""Maps errors of Redis to refusals of work."""

from __future__ import annotations

from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from common.errors import QueueFull, QueueUnavailable, Refused

_NO_WRITES = ("MISCONF", "NOREPLICAS")
"""The first words of an error reply; redis-py removes them where it has a class for the error."""


def says_no(error: Exception) -> bool:
    """Whether the server itself replied that it accepts no writes now."""
    if isinstance(error, ReadOnlyError | OutOfMemoryError):
        return True
    return isinstance(error, ResponseError) and any(word in str(error) for word in _NO_WRITES)


def kind_of(error: Exception) -> type[Refused]:
    """The refusal for this error of Redis."""
    return QueueFull if isinstance(error, OutOfMemoryError) else QueueUnavailable
