"""Infrastructure that both sides use: Redis, the cache, the catalog and logs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from common.settings.base import CommaSeparated, Section


class RedisSettings(Section):
    """The Redis of the queue, and its timeouts."""

    redis_url: SecretStr | None = Field(
        None, description="Redis or Valkey to use; unset starts an embedded one."
    )
    cache_redis_url: SecretStr | None = Field(
        None,
        description="Redis or Valkey to keep results in for the same input; unset is the queue's.",
    )
    sentinel_master: str = Field(
        "mymaster", description="The master's name, when redis_url begins with sentinel://."
    )
    state_dir: Path = Field(
        Path.home() / ".local" / "state" / "lanefleet",
        description="Folder for the embedded Redis' data and small state files.",
    )
    socket_timeout_seconds: float = Field(
        5.0, gt=0, description="Longest a Redis command may take before we reconnect."
    )


class CacheSettings(Section):
    """The result cache."""

    cache_timeout_seconds: float = Field(
        0.5,
        gt=0,
        le=10,
        description="Longest a look into that cache may take before the job is run instead.",
    )


class CatalogSettings(Section):
    """The catalog of models."""

    catalog: Path = Field(Path("deploy/models.yaml"), description="The catalog file.")
    models: CommaSeparated = Field(
        (), description="Catalog names this process serves, comma-separated; empty is all."
    )


class LogSettings(Section):
    """Logs."""

    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto is console on a terminal, JSON elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is printed."
    )
