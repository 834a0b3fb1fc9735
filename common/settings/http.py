"""The front: limits of requests, and the HTTP server (docs/server.md has the reasons)."""

from __future__ import annotations

from pydantic import Field

from common.settings.base import CommaSeparated, RootPath, Section

DEFAULT_LIST_MAX = 100_000


class FrontSettings(Section):
    """Limits and options of requests."""

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
    stream_reader_entries: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Steps of generation kept for a reader that is slower; above it they are read "
        "again from Redis once it takes more.",
    )
    chat_max_tokens: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="Most new tokens of a chat completion that names no limit.",
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
    max_backlog: int = Field(
        1_000_000, ge=1, description="Jobs one lane may hold before the API answers 429."
    )


class HttpSettings(Section):
    """The HTTP server."""

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
    root_path: RootPath = Field(
        "",
        description="Path under which a proxy publishes the API, as /lanefleet: links begin with "
        "it. Requests are taken with it and without it, so the proxy may cut it off.",
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
