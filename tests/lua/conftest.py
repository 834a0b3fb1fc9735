"""One embedded server for all tests of scripts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from common.redis.connect import connect
from common.redis.embedded_server import RedisServer
from common.settings import Settings

pytest.register_assert_rewrite("tests.lua.cases")


@pytest.fixture(scope="session")
def redis_client(embedded_redis: RedisServer) -> Iterator[Redis]:
    """A client of the server that all tests share."""
    with connect(embedded_redis.url, Settings()) as client:
        yield client
