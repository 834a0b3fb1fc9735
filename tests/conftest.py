"""Fixtures: a real Redis per module, a clean database and killed processes per test.

The tiers are told by folder: `tests/unit` and `tests/lua` start no process but one Redis and
load no model; `tests/process` starts others, `tests/models` loads models; the rest does both.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx._transports.default
import pytest

from api.client.connections import certificates
from common.redis.embedded_server import RedisServer
from tests.support.stack import Stack, running_redis

_new_context = httpx._transports.default.create_ssl_context


def _trusted(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    """As httpx does, but the authorities are read once: every httpx.get is a client of its own."""
    return (
        certificates() if verify is True and cert is None else _new_context(verify, cert, trust_env)
    )


httpx._transports.default.create_ssl_context = _trusted

_TIERS = {
    "unit": (),
    "lua": (),
    "process": ("process",),
    "models": ("model",),
    "benchmarks": ("process", "model", "bench"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by the folder that it lies in."""
    root = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(root).parts[0]
        for mark in _TIERS.get(folder, ("process", "model")):
            item.add_marker(mark)


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
