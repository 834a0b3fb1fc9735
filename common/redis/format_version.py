"""The version of what lies in Redis: who starts says what it knows, and refuses what is newer.

Asked once, at the start of whoever a person or an orchestrator starts. Not by the processes
that a supervisor starts anew: while a fleet is rolled, one that died would otherwise take its
siblings along, which know no more than it does and work on.
"""

from __future__ import annotations

from redis import Redis
from redis.exceptions import RedisError, WatchError

from common.errors import ConfigurationError
from common.redis.connect import connect
from common.redis.keys import FORMAT, FORMAT_VERSION
from common.redis.trouble import TROUBLE
from common.settings import RedisSettings

_LOOK_SECONDS = 1.0
"""A Redis that is silent holds up nobody's start for longer; it is waited for later, as ever."""


def check_format(url: str, settings: RedisSettings) -> None:
    """Write our version where there is none or an older one; ConfigurationError for a newer."""
    seconds = min(_LOOK_SECONDS, settings.socket_timeout_seconds)
    quick = settings.model_copy(update={"socket_timeout_seconds": seconds})
    with connect(url, quick) as client:
        try:
            found = agree(client, FORMAT_VERSION)
        except RedisError as exc:
            TROUBLE.note("checking its format", exc)
            return
    if found is None or found > FORMAT_VERSION:
        raise ConfigurationError(
            f"what lies in this Redis has format {_shown(found)} ({FORMAT}), and this release "
            f"knows {FORMAT_VERSION} at most: start a newer release, or name another "
            "LANEFLEET_REDIS_URL"
        )


def agree(client: Redis, known: int) -> int | None:
    """Raise the version to what is known; returns which holds then, None for what is no number."""
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
            except WatchError:  # somebody who knows more, or less, was quicker
                continue
            return known


def _shown(found: int | None) -> str:
    return "of another kind" if found is None else str(found)
