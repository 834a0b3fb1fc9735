"""The worker's own `/health` and `/metrics`, for orchestrators and Prometheus.

Alive means: Redis answered within the last lease. A worker that cannot reach
Redis for longer has lost its leases and is better restarted. The metrics are
read from the engine's counters when somebody scrapes; no job pays for them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from worker.observability.metrics import StageCollector

if TYPE_CHECKING:
    from worker.engine import Engine


class EngineCollector(Collector):
    """Reads the engine's counters at scrape time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Jobs, fenced results, batches by size, jobs in hand, seconds since Redis answered."""
        engine = self._engine
        jobs = CounterMetricFamily("lanefleet_worker_jobs", "Jobs published by this worker.")
        jobs.add_metric([], engine.finisher.finished)
        fenced = CounterMetricFamily("lanefleet_worker_fenced", "Results refused by the fence.")
        fenced.add_metric([], engine.finisher.fenced)
        batches = CounterMetricFamily(
            "lanefleet_worker_batches", "Batches run, by lane and size.", labels=["lane", "size"]
        )
        held = GaugeMetricFamily(
            "lanefleet_worker_jobs_in_hand", "Jobs leased by this worker.", labels=["lane"]
        )
        for lane in engine.lanes.values():
            held.add_metric([lane.name], len(lane.in_hand))
            for size, count in lane.sizes.copy().items():
                batches.add_metric([lane.name, str(size)], count)
        events = CounterMetricFamily(
            "lanefleet_worker_event_jobs",
            "Jobs by whether their Celery events were sent; above a set rate they are sampled.",
            labels=["sent"],
        )
        events.add_metric(["yes"], engine.event_jobs_sent)
        events.add_metric(["no"], engine.event_jobs_sampled_out)
        silence = GaugeMetricFamily(
            "lanefleet_worker_redis_silence_seconds", "Seconds since Redis last answered."
        )
        silence.add_metric([], time.monotonic() - engine.last_round_trip)
        yield from (jobs, fenced, batches, held, events, silence)


class HealthServer:
    """Serves `/health` and `/metrics` on the configured port."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(engine))
        self._registry.register(StageCollector(engine))
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
                """A probe every few seconds is no news."""

        settings = engine.settings
        self._http = ThreadingHTTPServer((settings.host, settings.worker_health_port), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, name="health", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._http.server_close()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """The response to a path: status, content type, body."""
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
        if path != "/health":
            return 404, "text/plain", b"try /health or /metrics\n"
        silence = time.monotonic() - self._engine.last_round_trip
        alive = silence < self._engine.settings.lease_seconds
        report = {
            "status": "ok" if alive else "no answer from Redis",
            "redis_silence_seconds": round(silence, 3),
            "loading": self._engine.models.loading,
        }
        return (200 if alive else 503), "application/json", json.dumps(report).encode()
