"""A receiver of spans by OTLP over HTTP."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Received:
    """One span, its ids as hexadecimal text."""

    service: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    links: list[dict[str, Any]]
    error: bool


@dataclass
class Receiver:
    """What came in."""

    spans: list[Received] = field(default_factory=list)
    url: str = ""

    def named(self, name: str, trace: str | None = None) -> list[Received]:
        """The spans of this name, of one trace or of all."""
        return [one for one in self.spans if one.name == name and trace in (None, one.trace)]

    def environment(self) -> dict[str, str]:
        """What makes a process send its spans here, soon."""
        return {
            "LANEFLEET_TRACES": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def take(self, body: bytes) -> None:
        """Parse one request."""
        for part in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _plain(part.resource.attributes)["service.name"]
            for scope in part.scope_spans:
                self.spans += [_received(service, one) for one in scope.spans]


def _received(service: str, span: Any) -> Received:
    links = [
        {"trace": one.trace_id.hex(), "span": one.span_id.hex(), **_plain(one.attributes)}
        for one in span.links
    ]
    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
    about = _plain(span.attributes)
    return Received(service, span.name, span.kind, *ids, about, links, span.status.code == 2)


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a port of its own."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            packed = self.headers.get("Content-Encoding") == "gzip"
            receiver.take(gzip.decompress(body) if packed else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield receiver
    server.shutdown()
    server.server_close()
    thread.join()
