"""Tracks whether the queue's Redis accepts work, so that requests are refused without waiting.

Without it each request would try by itself: a full server costs a round trip, an unavailable
one a timeout of seconds, and together the requests load a server that should recover. Once a
write has failed after its retries, new work is refused at once, until the sampler's write
succeeds.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from common.errors import QueueFull, Refused
from common.redis.trouble import kind_of, says_no

log = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 1.5
"""How long a server may be unavailable before new work is refused: a restart, a failover."""


class QueueGuard:
    """Derives from the last failures whether to refuse publishing. Reads no clock."""

    def __init__(self) -> None:
        self.refusal: type[Refused] | None = None
        """The error for new work; None while it is accepted."""
        self.on_refusal: Callable[[bool], None] | None = None
        """Called when refusing begins, with whether the server does not answer at all."""
        self._trouble_since: float | None = None

    @property
    def text(self) -> str:
        """The message for refused clients."""
        if self.refusal is QueueFull:
            return "the queue's memory is full; workers are draining it, try again shortly"
        return "the queue takes no work at the moment; nothing was queued, try again shortly"

    def publish_failed(self, error: Exception) -> None:
        """Record that publishing failed after its retries.

        An error that concerns one job's message does not concern the server.
        """
        if isinstance(error, RedisConnectionError | RedisTimeoutError) or says_no(error):
            self._refuse(error)

    def sampled(self, trouble: Exception | None, began: float, now: float) -> None:
        """Record the outcome of a sample that began at this time."""
        if trouble is None:
            if self.refusal is not None:
                log.info("queue_takes_work_again")
            self.refusal = self._trouble_since = None
            return
        if self._trouble_since is None:
            self._trouble_since = began
        if says_no(trouble) or now - self._trouble_since >= _PATIENCE_SECONDS:
            self._refuse(trouble)

    def _refuse(self, error: Exception) -> None:
        kind, before = kind_of(error), self.refusal
        self.refusal = kind
        if before is not kind:
            log.warning("queue_refuses_work", code=kind.code, error=str(error)[:200])
        if before is None and self.on_refusal:
            self.on_refusal(not says_no(error))
