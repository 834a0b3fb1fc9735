"""The version of the data format in Redis: a starting process raises it to its own version, and
refuses to start on a newer one.

Checked once, by processes that a person or an orchestrator starts. Not by processes that a
supervisor restarts: during a rolling upgrade, a restarted one would otherwise refuse to start and
so end its siblings, which have the same version and still work.
"""

from __future__ import annotations

import structlog
from redis import Redis
from redis.exceptions import RedisError, WatchError

from common.errors import ConfigurationError
from common.redis.connect import connect
from common.redis.keys import FORMAT, FORMAT_VERSION
from common.settings import RedisSettings

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
"""A Redis that does not answer delays a start by no more than this; the process waits for it
later as usual."""


def check_format(url: str, settings: RedisSettings) -> None:
    """Write this release's version where there is none or an older one; raises ConfigurationError
    for a newer one.
    """
    seconds = min(_LOOK_SECONDS, settings.socket_timeout_seconds)
    quick = settings.model_copy(update={"socket_timeout_seconds": seconds})
    with connect(url, quick) as client:
        try:
            found = agree(client, FORMAT_VERSION)
        except RedisError as exc:
            log.warning("redis_format_not_checked", error=str(exc))
            return
    if found is None or found > FORMAT_VERSION:
        raise ConfigurationError(
            f"what lies in this Redis has format {_shown(found)} ({FORMAT}), and this release "
            f"knows {FORMAT_VERSION} at most: start a newer release, or name another "
            "LANEFLEET_REDIS_URL"
        )


def agree(client: Redis, known: int) -> int | None:
    """Raise the stored version to `known`; returns the result, None where it is no number."""
    with client.pipeline() as pipe:
        while True:
            pipe.watch(FORMAT)
            found = pipe.get(FORMAT)
            if found is not None and not found.isdigit():
                return None
            if found is not None and int(found) >= known:
                return int(found)
            pipe.multi()
            pipe.set(FORMAT, known)
            try:
                pipe.execute()
            except WatchError:  # another process changed it meanwhile
                continue
            return known


def _shown(found: int | None) -> str:
    return "of another kind" if found is None else str(found)
