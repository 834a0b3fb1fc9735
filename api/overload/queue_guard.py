"""Whether the queue's Redis takes work; when it does not, nobody waits to hear it.

Without this each request would find out by itself: a full server costs a
round trip, one that is away costs a timeout of seconds, and all of them together
keep a server busy that should recover. Once a write has failed for good, new
work is refused on the spot, until the sampler has written a word.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from common.errors import Refused
from common.redis.trouble import TROUBLE, cause_of, kind_of, refusal_of, says_no, sentence_of

log = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 1.5
"""A server may be away for so long before new work is refused: a restart, a failover."""


class QueueGuard:
    """Knows, from the last failures, whether publishing makes sense. Reads no clock."""

    def __init__(self) -> None:
        self.refusal: type[Refused] | None = None
        """What new work is answered with; None while it is taken."""
        self.on_refusal: Callable[[bool], None] | None = None
        """Called when work begins to be refused; told whether the server is silent."""
        self._trouble_since: float | None = None
        self._error: Exception | None = None
        """Why, while work is refused."""

    def refused(self, seconds: float | None = None) -> Refused:
        """For whoever is refused: why, and when to try again."""
        return refusal_of(self._error, "nothing was queued, try again shortly", seconds)

    def publish_failed(self, error: Exception) -> None:
        """Work could not be published, however often it was tried.

        An error that is about one job's message is not the server's trouble.
        """
        if isinstance(error, RedisConnectionError | RedisTimeoutError) or says_no(error):
            self._refuse(error)

    def sampled(self, trouble: Exception | None, began: float, now: float) -> None:
        """A sample was taken, well or not; it began at this time."""
        if trouble is None:
            if self.refusal is not None:
                log.info("queue_takes_work_again")
            self.refusal = self._trouble_since = self._error = None
            TROUBLE.over()
            return
        if self._trouble_since is None:
            self._trouble_since = began
        if says_no(trouble) or now - self._trouble_since >= _PATIENCE_SECONDS:
            self._refuse(trouble)

    def _refuse(self, error: Exception) -> None:
        kind, before, known = kind_of(error), self.refusal, self._error
        self.refusal, self._error = kind, error
        if before is not kind or cause_of(known) != cause_of(error):
            log.warning(
                "queue_refuses_work",
                code=kind.code,
                cause=cause_of(error),
                text=sentence_of(error),
                error=str(error)[:200],
            )
        if before is None and self.on_refusal:
            self.on_refusal(not says_no(error))
