"""Builds the runner of batches from what the courier has."""

from __future__ import annotations

from typing import Protocol

import redis.asyncio

from common.batches.files import Files
from common.batches.publishing import open_files
from common.catalog import load_catalog
from common.settings import Settings
from worker.courier.batches.runner import BatchRunner


class Context(Protocol):
    """What the courier offers to each runner."""

    @property
    def settings(self) -> Settings:
        """The process' settings."""

    @property
    def client(self) -> redis.asyncio.Redis:
        """Its connections to Redis."""


def make_batch_runner(context: Context) -> BatchRunner | None:
    """The runner, or None where nothing says where files lie. Raises ConfigurationError."""
    settings = context.settings
    blobs = open_files(settings)
    if blobs is None:
        return None
    catalog = load_catalog(settings.catalog).subset(settings.models)
    return BatchRunner(context.client, Files(context.client, blobs), catalog, settings)
