"""How long a new worker takes from the start of its process to its first result.

With a Redis of its own, so that a running fleet is left alone: a job waits in the lane, then the
worker starts. The first start of several may read code and weights from the disk; the others find
them in the page cache.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis

from common.catalog import load_catalog
from common.errors import ConfigurationError, FleetError
from common.jobs.enqueue import publish_many
from common.jobs.job import Job
from common.jobs.record import JobRecord
from common.processes import die_with_parent
from common.redis.connect import connect
from common.redis.embedded_server import obtain_redis
from common.redis.keys import WORKER_PREFIX, job_key, meta_key
from common.settings import ENV_PREFIX, Settings
from common.worker_report import WorkerReport

_LOOK_SECONDS = 0.005
_STOP_SECONDS = 40.0
_LOG_LINES = 12


class ColdStartFailed(FleetError):
    """A worker ended, or had no result in time."""

    code = "cold_start_failed"


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Seconds from the start of the process."""

    reporting: float
    """To its first report: it is connected, and its threads run."""
    loaded: float
    """To the report that says that the model is loaded and warm; reports come twice a second."""
    first_result: float


def cold_starts(
    settings: Settings,
    model: str | None,
    job_input: Callable[[str], Any],
    times: int,
    timeout_seconds: float,
) -> tuple[str, list[ColdStart]]:
    """The model, and so many starts of a worker with it alone.

    job_input makes the input of a job for a model that takes text, image or json. Raises
    ConfigurationError and ColdStartFailed.
    """
    catalog = load_catalog(settings.catalog).subset(settings.models)
    name = model or next(
        (one.name for one in catalog.models.values() if one.input == "text"), next(iter(catalog))
    )
    if name not in set(catalog):
        raise ConfigurationError(f"no model {name!r} in {settings.catalog}")
    value = job_input(catalog[name].input)
    with tempfile.TemporaryDirectory(prefix="lanefleet-cold-") as folder:
        own = settings.model_copy(update={"redis_url": None, "state_dir": Path(folder)})
        redis = obtain_redis(own)
        try:
            with connect(redis.url, own) as client:
                starts = [
                    _start(client, redis.url, settings, name, value, Path(folder), timeout_seconds)
                    for _ in range(times)
                ]
        finally:
            redis.stop()
    return name, starts


def _start(
    client: Redis,
    redis_url: str,
    settings: Settings,
    model: str,
    value: Any,
    folder: Path,
    timeout_seconds: float,
) -> ColdStart:
    client.flushdb()
    job = Job(model, value)
    publish_many(client, [job])
    environment = {
        **os.environ,
        f"{ENV_PREFIX}REDIS_URL": redis_url,
        f"{ENV_PREFIX}MODELS": model,
        f"{ENV_PREFIX}CATALOG": str(settings.catalog),
        f"{ENV_PREFIX}STATE_DIR": str(folder),
        f"{ENV_PREFIX}SUPERVISED": "false",
        f"{ENV_PREFIX}WORKER_HEALTH_PORT": "0",
    }
    log = folder / "worker.log"
    with log.open("wb") as stream:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "worker"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
    try:
        return _watch(client, process, job.id, model, began, timeout_seconds)
    except ColdStartFailed as exc:
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        raise ColdStartFailed("\n".join([str(exc), *lines])) from exc
    finally:
        _end(process)


def _watch(
    client: Redis,
    process: subprocess.Popen[bytes],
    job_id: str,
    model: str,
    began: float,
    timeout_seconds: float,
) -> ColdStart:
    reporting = loaded = result = 0.0
    while not (loaded and result):
        now = time.monotonic() - began
        if process.poll() is not None:
            raise ColdStartFailed(f"the worker ended with status {process.returncode}")
        if now > timeout_seconds:
            raise ColdStartFailed(f"no result within {timeout_seconds:g} s")
        if not loaded and (report := _report(client)) is not None:
            reporting = reporting or now
            lane = report.lanes.get(model)
            if lane is not None and lane.error:
                raise ColdStartFailed(f"{model} could not be loaded: {lane.error}")
            loaded = now if lane is not None and lane.loaded else 0.0
        if not result and _succeeded(client, job_id):
            result = now
        time.sleep(_LOOK_SECONDS)
    return ColdStart(round(reporting, 3), round(loaded, 3), round(result, 3))


def _report(client: Redis) -> WorkerReport | None:
    for key in client.scan_iter(f"{WORKER_PREFIX}*"):
        found: Any = client.get(key)
        return WorkerReport.load(found) if found else None
    return None


def _succeeded(client: Redis, job_id: str) -> bool:
    found: Any = client.mget(job_key(job_id), meta_key(job_id))
    record = JobRecord.read(job_id, *found)
    if record is None or not record.state.terminal:
        return False
    if record.state.value != "succeeded":
        raise ColdStartFailed(f"the job is {record.state.value}: {record.error or record.reason}")
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
