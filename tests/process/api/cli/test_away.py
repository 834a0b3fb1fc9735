"""Commands that only look say at once that the fleet is in trouble: who runs them waits for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli.main import app
from api.client import ApiError

TROUBLE = {
    "type": "https://lanefleet.dev/problems/queue-unavailable",
    "title": "Queue unavailable",
    "status": 503,
    "detail": "Redis cannot be reached; what was asked for is unknown without it",
}
LOOKING = (
    "status",
    "system",
    "stages",
    "lanes list",
    "top --once",
    "workers list",
    "models list",
    "dead list echo",
    "outbox list",
    "bench --requests 5",
)


@pytest.fixture
def front() -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths that it was asked for; each is answered 503."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps(TROUBLE).encode()
            self.send_response(503)
            self.send_header("Retry-After", "60")
            self.send_header("Content-Type", "application/problem+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("command", LOOKING)
def test_it_asks_once(front: tuple[str, list[str]], command: str) -> None:
    url, asked = front
    done = CliRunner().invoke(app, [*command.split(), "--url", url])
    assert isinstance(done.exception, ApiError), done.output
    assert "Redis cannot be reached" in str(done.exception)
    assert len(asked) == 1
