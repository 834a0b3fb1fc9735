"""The worker: its devices, its threads, its turns between models, and how it stops."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from common.settings.base import ENV_PREFIX, Section


class DeviceSettings(Section):
    """The devices, and torch's options for them."""

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
        True,
        description="Whether a GPU's process stays on the cores of the GPU's NUMA node, and each "
        "of several CPU processes on cores of its own, of one NUMA node.",
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
    torch_threads: int = Field(
        0,
        ge=0,
        description="Threads torch and ONNX Runtime may use per process; 0 shares out the cores.",
    )


class WorkerSettings(Section):
    """One worker process."""

    decode_threads: int = Field(2, ge=0, le=64, description="Threads that decode inputs.")
    load_timeout_seconds: float = Field(
        900.0,
        ge=0,
        description="Longest a model may take to load, and then to warm up; 0 is no limit.",
    )
    decode_timeout_seconds: float = Field(
        30.0,
        ge=0,
        description="Longest one input may take to decode before its job fails; 0 is no limit.",
    )
    infer_timeout_seconds: float = Field(
        120.0,
        ge=0,
        description="Longest one batch may run before its worker process is replaced; 0 is no "
        "limit.",
    )
    encode_timeout_seconds: float = Field(
        30.0,
        ge=0,
        description="Longest one output may take to encode before its job fails; 0 is no limit.",
    )
    unload_timeout_seconds: float = Field(
        60.0,
        ge=0,
        description="Longest a model may take to unload before its worker process is replaced; 0 "
        "is no limit.",
    )
    max_stuck_threads: int = Field(
        4,
        ge=1,
        description="Threads that never came back from a model before the process is replaced.",
    )
    model_max_deaths: int = Field(
        3,
        ge=0,
        description="Times a model may end or hang its process while it loads, and as many times "
        "MAX_ATTEMPTS while it runs, before it is taken out of service; 0 is no limit.",
    )
    accuracy_gate: Literal["off", "background", "require"] = Field(
        "background",
        description="Whether models in another precision or on another backend than fp32 torch "
        "are compared with that: not at all, while they serve, or before they load.",
    )
    accuracy_gate_seconds: float = Field(
        600.0,
        gt=0,
        description="Longest that comparison may take for one model.",
    )
    accuracy_gate_samples: int = Field(
        64, ge=1, le=10_000, description="Most samples of a model that it looks at."
    )
    frozen_seconds: float = Field(
        120.0,
        ge=0,
        description="How long a worker process may run no Python code before its supervisor kills "
        "it; 0 is no limit.",
    )
    supervised: bool = Field(
        True,
        description="Whether a process of its own starts the worker of a single device again when "
        "it dies; several devices always have one.",
    )
    max_rss_mb: float = Field(
        0.0,
        ge=0,
        description="Resident memory above which a worker process is replaced; 0 is no limit.",
    )
    max_jobs_per_process: int = Field(
        0, ge=0, description="Jobs after which a worker process is replaced; 0 is no limit."
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
    prepared_mb: float = Field(
        64.0,
        ge=0,
        description="Decoded pictures and tokens kept in one process, for inputs that go to two of "
        "its models or versions; 0 keeps none.",
    )
    keep_freed_mb: int = Field(
        256,
        ge=0,
        le=2047,
        description="Memory that a process keeps after a batch for the next, with glibc; 0 leaves "
        "it to that.",
    )
    shadow_share: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Most of a device's time that shadows may take; they run only while no job is "
        "known to wait.",
    )
    shadow_max_batch: int = Field(
        8, ge=1, description="Most jobs of one shadow's batch, behind which a new job may wait."
    )
    shadow_waiting_jobs: int = Field(
        256, ge=1, description="Jobs of a lane that may wait for its shadow; others are dropped."
    )
    shadow_waiting_mb: int = Field(
        64, ge=1, description="Memory that the inputs and results of these may take, in MB."
    )
    shadow_timeout_seconds: float = Field(
        10.0,
        ge=0,
        description="Longest one batch of a shadow may take before its worker process is replaced; "
        "0 is the model's own limit.",
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
