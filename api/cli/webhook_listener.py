"""`lanefleet webhooks listen`: prints and verifies webhooks on this machine, for development.

It registers an endpoint of its own for as long as it runs. The fleet sends to a loopback address
only for such endpoints, to exactly this host and port, and only where it listens on loopback alone.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Annotated, Any

import typer
from rich.console import Console

from api.cli.options import JsonFlag, UrlOption
from api.client import Client, WebhookInvalid, verify_webhook

_MAX_BYTES = 1024 * 1024
_HOST = "127.0.0.1"
out, err = Console(), Console(stderr=True)


def listen(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one.")] = 0,
    event: Annotated[
        list[str] | None, typer.Option("--event", help="Such as job.failed; none is all of them.")
    ] = None,
    count: Annotated[
        int, typer.Option(min=0, help="End after so many; 0 listens until Ctrl-C.")
    ] = 0,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Print and verify webhooks as they come, for development; needs a fleet on this machine."""
    server = _Server(as_json)
    server.bind(port)
    with Client(url) as client:
        made = client.create_webhook(
            server.url, events=event, description="lanefleet webhooks listen", local=True
        )
        server.secret = made["secret"]
        err.print(
            f"listening at {server.url} as {made['id']}; Ctrl-C ends it",
            highlight=False,
            soft_wrap=True,
        )
        try:
            while not count or server.received < count:
                server.http.handle_request()
        except KeyboardInterrupt:
            pass
        finally:
            server.http.server_close()
            client.delete_webhook(made["id"])


class _Server:
    """Receives one webhook after the other."""

    def __init__(self, as_json: bool) -> None:
        self.secret = ""
        self.received = 0
        self._as_json = as_json

    def bind(self, port: int) -> None:
        """Listen; raises typer.BadParameter where the port is taken."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(min(size, _MAX_BYTES))
                server.take(dict(self.headers), body)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_args: Any) -> None:
                """Log nothing."""

        try:
            self.http = HTTPServer((_HOST, port), Handler)
        except OSError as exc:
            raise typer.BadParameter(f"--port {port}: {exc.strerror}; choose another") from exc
        self.url = f"http://{_HOST}:{self.http.server_address[1]}/"

    def take(self, headers: dict[str, str], body: bytes) -> None:
        """Verify and print one."""
        try:
            verify_webhook(self.secret, headers, body)
            problem = None
        except WebhookInvalid as exc:
            problem = str(exc)
        self.received += 1
        said = {"verified": problem is None, "problem": problem, **_read(headers, body)}
        if self._as_json:
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()
            return
        mark = "verified" if problem is None else f"NOT VERIFIED: {problem}"
        out.print(f"{said['id']} {mark}", highlight=False, markup=False, soft_wrap=True)
        out.print_json(data=said["event"])


def _read(headers: dict[str, str], body: bytes) -> dict[str, Any]:
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        event: Any = json.loads(body)
    except ValueError:
        event = body.decode("utf-8", "replace")
    return {"id": lower.get("webhook-id", ""), "event": event}
