"""One frozen settings tree, read from the environment once, in `__main__`.

Every field has a unit in its name, bounds and a sentence. Nothing else in
the project reads the environment for its own settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from common.errors import ConfigurationError
from common.net.addresses import Network, parse_networks

ENV_PREFIX = "LANEFLEET_"
DEFAULT_WINDOW = 8
DEFAULT_LIST_MAX = 100_000


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(part for part in map(str.strip, value.split(",")) if part)


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Ports = Annotated[tuple[int, ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(parse_networks)]


class Settings(BaseSettings):
    """Everything an operator may set; the environment name is LANEFLEET_ + the field's."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
    )

    # Where things are
    redis_url: SecretStr | None = Field(
        None, description="Redis or Valkey to use; unset starts an embedded one."
    )
    cache_redis_url: SecretStr | None = Field(
        None,
        description="Redis or Valkey to keep results in for the same input; unset is the queue's.",
    )
    cache_timeout_seconds: float = Field(
        0.5,
        gt=0,
        le=10,
        description="Longest a look into that cache may take before the job is run instead.",
    )
    sentinel_master: str = Field(
        "mymaster", description="The master's name, when redis_url begins with sentinel://."
    )
    state_dir: Path = Field(
        Path.home() / ".local" / "state" / "lanefleet",
        description="Folder for the embedded Redis' data and small state files.",
    )
    catalog: Path = Field(Path("deploy/models.yaml"), description="The catalog file.")
    models: CommaSeparated = Field(
        (), description="Catalog names this process serves, comma-separated; empty is all."
    )

    # Front
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the API listens on.")
    max_body_bytes: int = Field(
        32 * 1024 * 1024, ge=1024, description="Largest request body accepted."
    )
    max_wait_seconds: float = Field(
        60.0, ge=0, le=600, description="Longest a request may wait for its job."
    )
    max_event_streams: int = Field(
        5_000, ge=0, description="Event streams one API process holds open; above it 503."
    )
    event_stream_seconds: float = Field(
        900.0, gt=0, description="Longest an event stream stays open; its client connects again."
    )
    event_heartbeat_seconds: float = Field(
        15.0, gt=0, description="How often a silent event stream shows that it is alive."
    )
    event_poll_seconds: float = Field(
        0.5, gt=0, description="How often watched jobs are looked at for having begun to run."
    )
    list_max_count: int = Field(
        DEFAULT_LIST_MAX,
        ge=1,
        description="Newest jobs of each tenant that GET /v1/jobs can list, about; 60 bytes each.",
    )
    idempotency_ttl_seconds: int = Field(
        86_400,
        ge=1,
        description="How long an Idempotency-Key stands for its job; never longer than a result "
        "is kept (result_ttl_seconds, here and of the model).",
    )
    max_inputs: int = Field(
        2_048, ge=1, le=100_000, description="Most inputs in one request to a task-shaped route."
    )
    inline_input_bytes: int = Field(
        65_536, ge=0, description="Inputs above this size go by reference, not in the message."
    )
    blob_url: str | None = Field(
        None,
        description="Where large inputs lie: file:///a/shared/folder or s3://bucket/prefix, which "
        "no other fleet uses; unset keeps them in Redis.",
    )
    redis_input_bytes: int = Field(
        1024 * 1024,
        ge=0,
        description="Inputs above this size go to LANEFLEET_BLOB_URL, where that is set.",
    )
    max_backlog: int = Field(
        1_000_000, ge=1, description="Jobs one lane may hold before the API answers 429."
    )

    # The HTTP server; docs/server.md has the reasons
    api_workers: int = Field(
        1,
        ge=1,
        le=256,
        description="API processes that share the port, each started again when it ends; where "
        "containers are scaled, leave it at 1 and scale those.",
    )
    max_requests: int = Field(
        0,
        ge=0,
        description="Requests after which an API process is replaced by a fresh one; 0 is never.",
    )
    max_requests_jitter: int | None = Field(
        None,
        ge=0,
        description="At most so many more, drawn per process, so that not all are replaced at "
        "once; unset is a tenth.",
    )
    drain_seconds: int = Field(
        30, ge=1, le=3600, description="Longest that requests under way may take after SIGTERM."
    )
    accept_backlog: int = Field(
        2048, ge=1, description="Connections the kernel holds until the process accepts them."
    )
    max_connections: int = Field(
        4096,
        ge=1,
        description="Open connections per process; above it idle ones are closed, and where none "
        "is idle the newest is answered 503.",
    )
    max_concurrent_requests: int = Field(
        2048,
        ge=1,
        description="Requests under way per process, waiting ones too; above it the answer is 503. "
        "/health, /ready and /metrics are always answered.",
    )
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        description="How long an idle connection stays open; longer than a proxy in front keeps "
        "its own, or it will at times send a request into a closed one.",
    )
    header_timeout_seconds: float = Field(
        10.0, gt=0, description="Longest the head of a request may take to arrive."
    )
    max_header_bytes: int = Field(
        32_768, ge=1024, description="Largest head of a request, its first line included."
    )
    max_header_count: int = Field(100, ge=10, description="Most header fields in a request.")
    body_timeout_seconds: float = Field(
        20.0,
        gt=0,
        description="A body must bring body_bytes_per_second on average over each span of this.",
    )
    body_bytes_per_second: int = Field(
        500,
        ge=0,
        description="Slowest a body may arrive. One whose answer has begun, as in bulk, only has "
        "to bring a byte per span.",
    )
    send_timeout_seconds: float = Field(
        30.0, gt=0, description="Longest a client may take none of an answer that waits for it."
    )
    max_body_memory_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1024,
        description="Memory per process for bodies that arrive in pieces; above it more are "
        "answered 503.",
    )
    slow_request_seconds: float = Field(
        1.0,
        ge=0,
        description="A request that takes longer is logged, less the time it chose to wait; "
        "0 is off.",
    )
    allowed_hosts: CommaSeparated = Field(
        (),
        description="Names that the Host header may give, as api.example.com or *.example.com, "
        "comma-separated; * is any. Empty is any, but on loopback only this machine's own.",
    )
    cors_origins: CommaSeparated = Field(
        (),
        description="Origins whose pages may call the API, as https://app.example.com, "
        "comma-separated; * is any, empty is none.",
    )
    trusted_proxies: CommaSeparated = Field(
        (),
        description="Addresses or networks whose X-Forwarded-For and -Proto are believed, "
        "comma-separated; empty is none.",
    )

    # Tenants
    api_keys_required: bool | None = Field(
        None,
        description="true asks every request for a key, also before one exists; false lets "
        "requests without one in, for a private network; unset asks once a key exists, and "
        "refuses to listen beyond loopback before.",
    )
    key_cache_seconds: float = Field(
        5.0,
        ge=0,
        le=300,
        description="How long a process believes what it knows of a key; so long a revoked one "
        "may still work.",
    )
    tenant_jobs_per_second: float = Field(
        0.0,
        ge=0,
        description="Jobs per second that one tenant may send, on average; 0 is no limit.",
    )
    tenant_burst_jobs: int = Field(
        1_000, ge=1, description="Jobs that a tenant with such a limit may send at once."
    )
    tenant_max_in_flight: int = Field(
        0, ge=0, description="Jobs that one tenant may have waiting or running; 0 is no limit."
    )
    tenant_window_jobs: int = Field(
        DEFAULT_WINDOW,
        ge=1,
        le=10_000,
        description="Jobs of one tenant that may stand in a band's list; the others wait beside it "
        "until it is their tenant's turn.",
    )

    # Overload (docs/overload.md)
    retry_after_max_seconds: float = Field(
        60.0, ge=1, le=3600, description="Longest that a refused client is told to wait."
    )
    deadline_safety_factor: float = Field(
        2.0,
        ge=0,
        description="A job is refused when it would start too late even if its lane drained this "
        "many times faster than measured; 0 refuses none.",
    )
    scale_from_zero: bool = Field(
        True,
        description="Whether a scaler starts workers for what waits; false refuses jobs of models "
        "that no live worker serves.",
    )
    breaker_failures: int = Field(
        10,
        ge=0,
        description="Jobs that fail in a row, by the model's fault, before its jobs are refused; "
        "0 is no breaker.",
    )
    breaker_failure_share: float = Field(
        0.5, gt=0, le=1, description="Share of failed jobs in the window that does the same."
    )
    breaker_least_jobs: int = Field(
        20, ge=1, description="Jobs in the window below which their share says nothing."
    )
    breaker_window_seconds: float = Field(
        30.0, gt=0, le=3600, description="How far back that share looks."
    )
    breaker_open_seconds: float = Field(
        10.0, gt=0, description="How long jobs are refused first; doubles with each time in a row."
    )
    breaker_open_max_seconds: float = Field(
        300.0, gt=0, description="How long they are refused at most before the model is probed."
    )
    breaker_probes: int = Field(
        3, ge=1, description="Jobs let through to see whether the model works again."
    )

    # Jobs
    result_ttl_seconds: int = Field(
        86_400, ge=1, description="How long a settled job's record and result are kept."
    )
    lease_seconds: float = Field(
        30.0, ge=1, le=3600, description="How long a worker holds a job without renewing it."
    )
    renew_seconds: float | None = Field(
        None, gt=0, description="How often leases are renewed; unset is a third of the lease."
    )
    max_attempts: int = Field(
        3,
        ge=1,
        le=100,
        description="Tries before a job is dead; with 1, one that a dead worker held is not run.",
    )
    dead_max_count: int = Field(
        10_000, ge=1, description="Dead letters kept per lane; the oldest leave first."
    )
    default_deadline_seconds: float | None = Field(
        None, gt=0, description="Deadline of jobs that name none; unset is no deadline."
    )

    # Worker
    devices: str = Field(
        "auto",
        min_length=1,
        description="Devices to run one worker process on each, as `worker --devices` takes them.",
    )
    use_gpu: bool = Field(
        True,
        validation_alias=AliasChoices(f"{ENV_PREFIX}USE_GPU", "USE_GPU"),
        description="false keeps every model on the CPU; a plain USE_GPU is read as well.",
    )
    cpu_affinity: bool = Field(
        True, description="Whether a GPU's process stays on the cores of the GPU's NUMA node."
    )
    gpu_memory_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of a GPU's memory torch may take in one process; 1 is no cap.",
    )
    allow_tf32: bool = Field(
        True,
        description="Lets fp32 models round to TF32 on GPUs that have it, for speed: about three "
        "digits stay exact. torch by itself does so for convolutions only.",
    )
    cudnn_benchmark: bool = Field(
        False,
        description="Lets cuDNN time its algorithms for each new input shape: faster for pictures, "
        "but each batch size is slow the first time.",
    )
    decode_threads: int = Field(2, ge=0, le=64, description="Threads that decode inputs.")
    decode_timeout_seconds: float = Field(
        30.0, gt=0, description="Longest one input may take to decode before its job fails."
    )
    fetch_allow: Networks = Field(
        (),
        description="Networks beyond the public internet, as 10.1.0.0/16,fd00:1::/64, that "
        "input_url may lead to, at any port.",
    )
    fetch_ports: Ports = Field(
        (80, 443), description="Ports that input_url may lead to on the public internet."
    )
    fetch_max_bytes: int = Field(
        32 * 1024 * 1024, ge=1024, description="Largest input fetched from a URL, decompressed."
    )
    fetch_seconds: float = Field(
        15.0, gt=0, le=600, description="Longest an input may take to fetch, all tries together."
    )
    fetch_tries: int = Field(
        3, ge=1, le=10, description="Times a server that fails or is not reached is asked."
    )
    fetch_concurrency: int = Field(
        64, ge=1, le=1024, description="Inputs that one worker process fetches at a time."
    )
    blob_sweep_seconds: float = Field(
        300.0, gt=0, description="How often inputs that no job needs are looked for."
    )
    blob_orphan_seconds: float = Field(
        900.0,
        ge=1,
        description="Age from which an input that no job needs is removed; longer than a submit "
        "may take.",
    )
    torch_threads: int = Field(
        0,
        ge=0,
        description="Threads torch and ONNX Runtime may use per process; 0 shares out the cores.",
    )
    look_ahead_jobs: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Jobs held ready when a lane is deep, so that like can be put beside like; "
        "at least a batch.",
    )
    model_memory_mb: float = Field(
        0.0,
        ge=0,
        description="Memory for models in one process; the least recently used leave for others. "
        "0 is no limit: all stay.",
    )
    batches_per_turn: int = Field(
        16, ge=1, description="Full batches a lane may run before another lane that waits."
    )
    turn_seconds: float = Field(
        2.0, gt=0, description="Longest such a turn, whatever the batches take."
    )
    events: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Celery task events: auto sends them once somebody asks, as Flower does.",
    )
    events_per_second: int = Field(
        1_000, ge=0, description="Jobs per second whose events are sent; above it they are sampled."
    )
    shutdown_grace_seconds: float = Field(
        30.0, ge=0, description="Longest a running batch may take to finish after SIGTERM."
    )
    soft_shutdown_seconds: float = Field(
        0.0, ge=0, description="Celery's soft shutdown: how long SIGQUIT waits before a cold stop."
    )
    worker_health_port: int = Field(
        0, ge=0, le=65535, description="Port of the worker's /health and /metrics; 0 is off."
    )

    # Redis connections
    socket_timeout_seconds: float = Field(
        5.0, gt=0, description="Longest a Redis command may take before we reconnect."
    )

    # Logs
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto is console on a terminal, JSON elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is printed."
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.renew_seconds is not None and self.renew_seconds * 2 > self.lease_seconds:
            raise ValueError(
                f"renew_seconds ({self.renew_seconds}) must be at most half of "
                f"lease_seconds ({self.lease_seconds}), or a lease can lapse between renewals"
            )
        if self.breaker_open_seconds > self.breaker_open_max_seconds:
            raise ValueError(
                f"breaker_open_seconds ({self.breaker_open_seconds}) must not exceed "
                f"breaker_open_max_seconds ({self.breaker_open_max_seconds})"
            )
        return self

    @property
    def lease_ms(self) -> int:
        """The lease in milliseconds, as the scripts take it."""
        return int(self.lease_seconds * 1000)

    @property
    def renew_interval_seconds(self) -> float:
        """Seconds between two renewals of the leases in hand."""
        return self.renew_seconds or self.lease_seconds / 3


def load_settings(**overrides: object) -> Settings:
    """Read the environment; raise ConfigurationError with one line that names the field."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"{ENV_PREFIX}{field.upper().removeprefix(ENV_PREFIX)}" if field else "settings"
        raise ConfigurationError(f"{where}: {first['msg']}") from exc
