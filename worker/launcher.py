"""One Celery worker process per device, pinned before torch is imported."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import structlog
from celery.apps.worker import Worker
from celery.platforms import SecurityWarning

from common.broker import create_app
from common.catalog import Catalog, load_catalog
from common.redis_server import obtain_redis
from common.settings import Settings
from worker.bootstep import install
from worker.engine import Engine

log = structlog.get_logger(__name__)


def count_gpus() -> int:
    """NVIDIA devices that the driver shows; 0 when there is no driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no driver, no library, or no permission: no GPU
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


def plan_devices(settings: Settings, gpus: int, platform: str = sys.platform) -> list[str]:
    """The devices to run one worker on each: `cuda:N`, `mps` or `cpu`."""
    if not settings.use_gpu:
        return ["cpu"]
    if gpus:
        return [f"cuda:{index}" for index in range(gpus)]
    if platform == "darwin" and os.uname().machine == "arm64":
        return ["mps"]
    return ["cpu"]


def pin(device: str, settings: Settings) -> str:
    """Hide every other GPU and size the math threads. Call before torch is imported.

    Returns the device's name inside this process.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = (
        device.partition(":")[2] if device.startswith("cuda") else ""
    )
    threads = settings.torch_threads or usable_cores()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    return "cuda:0" if device.startswith("cuda") else device


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_worker(settings: Settings, device: str, name: str | None = None) -> int:
    """Serve lanes on one device until SIGTERM; returns the exit status."""
    inner = pin(device, settings)
    # Threads hand work to each other many times a millisecond; the default of
    # 5 ms for giving up the interpreter lock would dominate latency.
    sys.setswitchinterval(0.001)
    catalog = load_catalog(settings.catalog).subset(settings.models)
    redis = obtain_redis(settings)
    try:
        return _run_celery(settings, catalog, redis.url, inner, name or default_name(device))
    finally:
        redis.stop()


def default_name(device: str) -> str:
    """A node name that is unique per process: `<device>-<pid>@<host>`."""
    return f"{device.replace(':', '')}-{os.getpid()}@{socket.gethostname()}"


def _run_celery(
    settings: Settings, catalog: Catalog, redis_url: str, device: str, name: str
) -> int:
    app = create_app(redis_url, settings)
    # The lanes take the messages; Celery's own consumer must not pop any.
    app.amqp.queues._consume_from = {}

    def engine(hostname: str) -> Engine:
        from celery.worker import state

        return Engine(
            settings, catalog, redis_url, hostname, device, is_revoked=state.revoked.__contains__
        )

    install(app, engine)
    warnings.filterwarnings("ignore", category=SecurityWarning)  # we take JSON, never pickle
    worker: Any = Worker(
        app=app,
        hostname=name,
        pool="solo",
        concurrency=1,
        loglevel=settings.log_level.upper(),
        quiet=True,
        without_gossip=True,
        without_mingle=True,  # it costs a second, for a revoke list that we keep in Redis
        task_events=settings.events == "on",
        optimization="default",
    )
    worker.start()
    return int(worker.exitcode or 0)


def run_fleet(devices: Sequence[str]) -> int:
    """Start one process per device and wait for all; returns the worst exit status."""
    log.info("workers_starting", devices=list(devices))
    children = [
        subprocess.Popen([sys.executable, "-m", "worker", "--device", device]) for device in devices
    ]
    return wait_for(children)


def wait_for(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Pass our signals on to the children and wait until all have ended."""
    import signal
    from types import FrameType

    def forward(signum: int, _frame: FrameType | None) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(signum)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    return max(abs(child.wait()) for child in children)
