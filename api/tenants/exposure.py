"""Refuses to start where other machines could use the API without a key."""

from __future__ import annotations

import redis
from redis.exceptions import RedisError

from common.errors import ConfigurationError
from common.net.loopback import is_loopback
from common.redis.keys import API_KEYS
from common.settings import Settings


def check_exposure(client: redis.Redis, settings: Settings) -> None:
    """Raise ConfigurationError where other machines could use the API without a key."""
    if settings.api_keys_required is not None or is_loopback(settings.host):
        return
    try:
        keys = client.hlen(API_KEYS)
    except RedisError as exc:
        raise ConfigurationError(
            f"whether API keys exist cannot be told ({exc}); LANEFLEET_API_KEYS_REQUIRED=true "
            "starts without looking"
        ) from exc
    if not keys:
        raise ConfigurationError(
            f"no API key exists, and {settings.host} can be reached from elsewhere: make one with "
            "`lanefleet keys create`, or set LANEFLEET_HOST=127.0.0.1, or, on a network where you "
            "trust everybody, LANEFLEET_API_KEYS_REQUIRED=false"
        )
