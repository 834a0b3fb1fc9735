"""One worker process on one device: a real Celery worker whose queues the lanes serve."""

from __future__ import annotations

import atexit
import faulthandler
import os
import socket
import sys
import threading
import time
import warnings
from typing import Any

import structlog
from celery.apps.worker import Worker
from celery.platforms import SecurityWarning

from common.broker import create_app
from common.catalog import Catalog, load_catalog
from common.inputs.blobs import Blobs, open_blobs
from common.redis.connect import connect
from common.redis.embedded_server import obtain_redis
from common.redis.format_version import check_format
from common.settings import Settings
from common.tracing.spans import open_tracing
from worker.celery_integration.bootstep import EngineFactory, install
from worker.celery_integration.canvas import Canvas
from worker.celery_integration.continuations import Continuations
from worker.celery_integration.revoked_stamps import RevokedStamps
from worker.devices.kept_memory import keep_freed
from worker.devices.placement import name_inside
from worker.engine import Engine
from worker.guard.copies import end_copies
from worker.guard.supervision import Supervision
from worker.models.mirror import mirror_of
from worker.models.prepared import PREPARED
from worker.models.weights import set_base
from worker.observability.device_trace import socket_of_worker
from worker.observability.view import EventCounts
from worker.pipeline.batch_spans import BatchSpans
from worker.pipeline.finisher import Listener
from worker.process.celery_log import quieten

log = structlog.get_logger(__name__)

_EXIT_SECONDS = 5.0
_SERVICE = "lanefleet-worker"
"""What its spans name as their service, unless OTEL_SERVICE_NAME does."""


def run_worker(
    settings: Settings,
    device: str,
    name: str | None = None,
    supervision: Supervision | None = None,
) -> int:
    """Serve lanes on the device placed here until SIGTERM; returns the exit status.

    supervision is given by the supervisor that started the process.
    """
    end_copies()
    faulthandler.enable()  # a crash in a library says in whose call
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Threads hand work to each other many times a millisecond; the default switch
    # interval of 5 ms for the interpreter lock would dominate latency.
    sys.setswitchinterval(0.001)
    catalog = load_catalog(settings.catalog).subset(settings.models)
    set_base(settings.catalog.parent, settings.state_dir / "converted", mirror_of(settings))
    keep_freed(settings.keep_freed_mb)
    PREPARED.max_bytes = int(settings.prepared_mb * 2**20)
    blobs = open_blobs(settings.blob_url)
    redis = obtain_redis(settings)
    try:
        if supervision is None:
            check_format(redis.url, settings)
        inner, node = name_inside(device), name or default_name(device)
        status = _run_celery(settings, catalog, redis.url, inner, node, blobs, supervision)
    finally:
        redis.stop()
    if supervision is not None:
        supervision.marks.say_goodbye()
    threading.Thread(target=_insist, args=(status,), name="exit", daemon=True).start()
    return status


def _insist(status: int) -> None:
    """End the process where the interpreter waits for a thread that a model has left running."""
    time.sleep(_EXIT_SECONDS)
    log.warning("worker_ended_by_force", reason="threads or exit handlers of a model still run")
    os._exit(status)


def default_name(device: str) -> str:
    """A node name that is unique per process: `<device>-<pid>@<host>`."""
    return f"{device.replace(':', '')}-{os.getpid()}@{socket.gethostname()}"


def _run_celery(
    settings: Settings,
    catalog: Catalog,
    redis_url: str,
    device: str,
    name: str,
    blobs: Blobs | None,
    supervision: Supervision | None,
) -> int:
    app = create_app(redis_url, settings)
    # The lanes take the messages; Celery's own consumer must not pop any.
    app.amqp.queues._consume_from = {}

    stamps = RevokedStamps()
    factory = _engine_factory(settings, catalog, redis_url, device, blobs, stamps, supervision)
    install(app, settings, factory, stamps)
    quieten()
    warnings.filterwarnings("ignore", category=SecurityWarning)  # we take JSON, never pickle
    worker: Any = Worker(
        app=app,
        hostname=name,
        pool="solo",
        concurrency=1,
        loglevel=settings.log_level.upper(),
        quiet=True,
        without_gossip=True,
        without_mingle=True,  # it costs a second, for a revoke list that is stored in Redis
        task_events=settings.events == "on",
        optimization="default",
    )
    worker.start()
    return int(worker.exitcode or worker.lanes.engine.guard.departure.status)


def _engine_factory(
    settings: Settings,
    catalog: Catalog,
    redis_url: str,
    device: str,
    blobs: Blobs | None,
    stamps: RevokedStamps,
    supervision: Supervision | None,
) -> EngineFactory:
    tracing = open_tracing(settings, _SERVICE)

    def make(hostname: str, listener: Listener, event_counts: EventCounts) -> Engine:
        from celery.worker import state

        if tracing is not None:
            listener = BatchSpans(tracing, hostname).beside(listener)
        canvas = Canvas(redis_url, settings)
        continuations = Continuations(
            connect(redis_url, settings), hostname, canvas.successors, settings.lease_seconds
        )
        engine = Engine(
            settings,
            catalog,
            redis_url,
            hostname,
            device,
            is_revoked=state.revoked.__contains__,
            has_revoked_stamp=stamps.match,
            blobs=blobs,
            listener=listener,
            event_counts=event_counts,
            name_children=canvas.name_children,
            caretakers=(continuations,),
            supervision=supervision,
        )
        if settings.profiling:
            local = socket_of_worker(settings.state_dir, engine.models.run_on_device, device)
            local.start()
            atexit.register(local.stop)
        return engine

    return make
