"""Infrastructure that both sides use: Redis, the cache, the catalog and logs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from common.settings.base import CommaSeparated, RedisUrl, Section


class RedisSettings(Section):
    """The Redis of the queue, and its timeouts."""

    redis_url: RedisUrl | None = Field(
        None,
        description="Redis or Valkey to use: redis://, rediss://, unix://, sentinel:// or "
        "host:port; unset starts an embedded one.",
    )
    cache_redis_url: RedisUrl | None = Field(
        None,
        description="Redis or Valkey to keep results in for the same input; unset is the queue's.",
    )
    sentinel_master: str = Field(
        "mymaster", description="The master's name, when redis_url begins with sentinel://."
    )
    sentinel_username: str | None = Field(
        None, description="Whom the Sentinels are logged in to as, where they have ACL users."
    )
    sentinel_password: SecretStr | None = Field(
        None, description="The Sentinels' own password; that in redis_url is the master's."
    )
    sentinel_tls: bool = Field(
        False,
        description="Whether the Sentinels speak TLS, with the ssl_ options of redis_url; such "
        "options alone are the master's.",
    )
    state_dir: Path = Field(
        Path.home() / ".local" / "state" / "lanefleet",
        description="Folder for the embedded Redis' data and small state files.",
    )
    socket_timeout_seconds: float = Field(
        5.0, gt=0, description="Longest a Redis command may take before we reconnect."
    )
    redis_outage_seconds: float = Field(
        5.0,
        ge=0,
        le=300,
        description="How long Redis may be away before whoever waits for a result gets the error; "
        "longer than it takes to restart.",
    )
    redis_keepalive_seconds: float = Field(
        15.0,
        ge=1,
        le=3600,
        description="After so long in silence a connection to Redis is probed, or replaced before "
        "it is used: less than what any NAT or balancer between forgets it after.",
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


class TraceSettings(Section):
    """Traces."""

    traces: bool = Field(
        False,
        description="Whether spans are recorded and sent by OTLP over HTTP, where and how the "
        "OTEL_* variables say; needs the extra `otel`.",
    )


class LogSettings(Section):
    """Logs, and what may be seen of a process besides."""

    profiling: bool = Field(
        True,
        description="Whether `lanefleet profile` of the same user, on the same machine, may look "
        "into a process; false opens no socket in state_dir.",
    )

    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto is console on a terminal, JSON elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is printed."
    )
