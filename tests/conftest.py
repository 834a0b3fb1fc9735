"""Fixtures: a real Redis per module, a clean database and killed processes per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.redis.embedded_server import RedisServer
from tests.support.stack import Stack, running_redis


@pytest.fixture(scope="session")
def embedded_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One embedded server for all tests that do not harm it."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def stack(embedded_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """An empty database, and processes that end with the test."""
    made = Stack(embedded_redis.url, tmp_path)
    made.redis.flushall()
    yield made
    made.close()


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """The same over a server of its own, for tests that do harm it.

    Ending connections is harm too: Celery's pools, one for all tests of a process, keep theirs.
    """
    with running_redis(tmp_path / "redis") as server:
        made = Stack(server.url, tmp_path)
        yield made
        made.close()
