"""What an error of Redis means to somebody with work."""

from __future__ import annotations

from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from common.errors import QueueFull, QueueUnavailable, Refused

_NO_WRITES = ("MISCONF", "NOREPLICAS")
"""The words an answer begins with; those that redis-py has a class for lose theirs."""


def says_no(error: Exception) -> bool:
    """Whether the server itself answered that it takes no writes now."""
    if isinstance(error, ReadOnlyError | OutOfMemoryError):
        return True
    return isinstance(error, ResponseError) and any(word in str(error) for word in _NO_WRITES)


def kind_of(error: Exception) -> type[Refused]:
    """What an error of Redis means to somebody with work."""
    return QueueFull if isinstance(error, OutOfMemoryError) else QueueUnavailable
