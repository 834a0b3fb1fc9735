"""Run a whole fleet on this machine: Redis, API, worker and Flower.

Each process leads a session of its own, so that Ctrl-C reaches only us and
we stop them in order: the front first, then the workers, Redis last.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

from api.client import ApiError, Client
from common.errors import FleetError
from common.processes import die_with_parent
from common.redis.embedded_server import RedisServer, obtain_redis
from common.settings import ENV_PREFIX, Settings
from common.worker_report import WorkerReport

OnLine = Callable[[str, str], None]
"""Told of each line a process prints: (process name, line)."""

_STOP_SECONDS = 50.0


class FleetFailed(FleetError):
    """A process of the fleet ended, or was not ready in time."""

    code = "fleet_failed"


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Fleet:
    """A running fleet; use as a context manager."""

    settings: Settings
    port: int
    flower_port: int | None
    on_line: OnLine
    environment: dict[str, str] = field(default_factory=dict)
    redis: RedisServer | None = None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the API listens."""
        host = "127.0.0.1" if self.settings.host in ("0.0.0.0", "::") else self.settings.host  # noqa: S104 - compared, not bound
        return f"http://{host}:{self.port}"

    def __enter__(self) -> Fleet:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start Redis, then the processes; returns before they are ready."""
        self.redis = obtain_redis(self.settings)
        self._spawn("api", [sys.executable, "-m", "api"])
        self._spawn("worker", [sys.executable, "-m", "worker"])
        self._spawn("courier", [sys.executable, "-m", "worker", "--role", "courier"], health=False)
        if self.flower_port:
            self._spawn("flower", flower_command(self.flower_port))

    def wait_ready(
        self,
        seconds: float,
        on_progress: Callable[[list[WorkerReport]], None] = lambda _reports: None,
    ) -> list[WorkerReport]:
        """Wait until the API answers and every model is loaded or has failed to.

        Returns the workers' reports. Raises FleetFailed.
        """
        deadline = time.monotonic() + seconds
        with Client(self.url, timeout=2, retries=0) as client:
            while time.monotonic() < deadline:
                self.check()
                try:
                    reports = [WorkerReport.of(one) for one in client.list_workers()]
                except ApiError as exc:
                    if exc.status in (401, 403):
                        raise FleetFailed(
                            "the API asks for a key: set LANEFLEET_API_KEY to one with the scope "
                            "admin (`lanefleet keys create`)"
                        ) from exc
                    reports = []
                except httpx.HTTPError:
                    reports = []
                on_progress(reports)
                if reports and all(report.settled for report in reports):
                    return reports
                time.sleep(0.1)
        raise FleetFailed(f"the fleet was not ready within {seconds:.0f} s")

    def check(self) -> None:
        """Raise FleetFailed when a process has ended."""
        for name, process in self.processes.items():
            if (status := process.poll()) is not None:
                raise FleetFailed(f"{name} ended with status {status}; its log says why")

    def stop(self) -> None:
        """Stop everything in order; returns when nothing is left running."""
        for group in (("api", "flower"), ("worker", "courier")):
            running = [self.processes[name] for name in group if name in self.processes]
            for process in running:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            _await(running)
        if self.redis:
            self.redis.stop()

    def _spawn(self, name: str, command: Sequence[str], *, health: bool = True) -> None:
        assert self.redis is not None
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            **self.environment,
            f"{ENV_PREFIX}REDIS_URL": self.redis.url,
            f"{ENV_PREFIX}PORT": str(self.port),
            f"{ENV_PREFIX}CATALOG": str(self.settings.catalog),
        }
        if self.settings.files_url is None and self.settings.blob_url is None:
            folder = (self.settings.state_dir / "files").absolute()
            environment[f"{ENV_PREFIX}FILES_URL"] = folder.as_uri()
        if not health:  # the port is the worker's, on the same machine
            environment[f"{ENV_PREFIX}WORKER_HEALTH_PORT"] = "0"
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        self.processes[name] = process
        threading.Thread(target=self._relay, args=(name, process), daemon=True).start()

    def _relay(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.on_line(name, line.decode(errors="replace").rstrip("\n"))


def flower_command(port: int) -> list[str]:
    """Flower on loopback, on the app that the workers use."""
    return [
        *(sys.executable, "-m", "celery", "-A", "common.broker", "flower"),
        *("--address=127.0.0.1", f"--port={port}", "--logging=warning"),
    ]


def _await(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    for process in processes:
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def project_root() -> Path:
    """The checkout that this package is part of."""
    return Path(__file__).resolve().parents[2]
