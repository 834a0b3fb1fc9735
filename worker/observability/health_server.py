"""The worker's own `/health`, `/ready` and `/metrics`, for orchestrators and Prometheus.

Ready means that its models are loaded, or known not to load, and that it has not been told to end.
Healthy means that Redis answered within the last lease, and that no model holds the process for
longer than its limit. A worker that cannot reach Redis for longer has lost its leases and should be
restarted; one that a model holds ends by itself, and says so before. The metrics are read from the
worker's counters at scrape time, at no cost per job.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from common.metrics.exposition import CONTENT_TYPE, text_of
from common.settings import Settings
from worker.observability.metrics import WorkerCollector
from worker.observability.view import EngineView


class HealthServer:
    """Serves them on the configured port."""

    def __init__(
        self, view: EngineView, host: str, port: int, dead_after_seconds: float, settings: Settings
    ) -> None:
        """dead_after_seconds is how long Redis may not answer before the worker is unhealthy."""
        self._view = view
        self._dead_after_seconds = dead_after_seconds
        self._metrics = WorkerCollector(view, settings)
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, content_type, body = server.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: Any) -> None:
                """Log nothing: probes are frequent."""

        self._http = ThreadingHTTPServer((host, port), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, name="health", daemon=True)

    def start(self) -> None:
        """Start serving."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """The response to a path: status, content type, body."""
        if path == "/metrics":
            return 200, CONTENT_TYPE, text_of(self._metrics.collect())
        if path == "/ready":
            return self._ready()
        if path != "/health":
            return 404, "text/plain", b"try /health, /ready or /metrics\n"
        silence = self._view.redis_health.silence(time.monotonic())
        alive = silence < self._dead_after_seconds
        leaving = self._view.leaving
        status = f"leaving: {leaving}" if leaving else "ok" if alive else "no answer from Redis"
        report = {
            "status": status,
            "redis_silence_seconds": round(silence, 3),
            "loading": self._view.loading,
            "warnings": self._view.warnings(),
        }
        return (200 if status == "ok" else 503), "application/json", json.dumps(report).encode()

    def _ready(self) -> tuple[int, str, bytes]:
        view = self._view
        lanes = [lane for lane in view.lanes.values() if lane.spec.load == "eager"]
        loaded = all(lane.handler or view.residents[lane.spec.name].error for lane in lanes)
        status = "ready" if loaded and view.on_the_bus else "loading"
        if view.state.stopping.is_set():
            status = "stopping"
        report = json.dumps({"status": status, "loading": view.loading}).encode()
        return (200 if status == "ready" else 503), "application/json", report


def health_server_of(view: EngineView, settings: Settings) -> HealthServer | None:
    """The health server, where a port is set."""
    port = settings.worker_health_port
    if not port:
        return None
    return HealthServer(view, settings.host, port, settings.lease_seconds, settings)
