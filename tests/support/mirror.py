"""A mirror of weights: a TLS server on loopback that serves bytes, and misbehaves on demand."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ADDRESS = "127.0.0.1"


def certificate(folder: Path) -> Path:
    """Key and self-signed certificate of 127.0.0.1 and mirror.test, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine")
    key, cert, both = folder / "key.pem", folder / "cert.pem", folder / "both.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=mirror.test"]
    command += ["-addext", f"subjectAltName=DNS:mirror.test,IP:{ADDRESS}"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


@dataclass
class MirrorServer:
    """Serves `files` by path; knows ranges."""

    pem: Path
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Paths, with the Range header that came along."""
    statuses: list[int] = field(default_factory=list)
    """Answers to give before the files are served, in order."""
    break_after: list[int] = field(default_factory=list)
    """For the next requests: bytes after which the connection is closed."""
    headers: dict[str, str] = field(default_factory=dict)
    knows_ranges: bool = True
    hides_length: bool = False

    def __post_init__(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem)
        self._server = ThreadingHTTPServer((ADDRESS, 0), _handler_of(self))
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def put(self, path: str, content: bytes) -> str:
        """Serve this; returns what a catalog says for it."""
        self.files[path] = content
        return f"{self.url(path)}#sha256={hashlib.sha256(content).hexdigest()}"

    def url(self, path: str) -> str:
        """Where it is."""
        return f"https://{ADDRESS}:{self.port}{path}"

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


def _handler_of(mirror: MirrorServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            mirror.asked.append((self.path, asked))
            if mirror.statuses:
                return self._say(mirror.statuses.pop(0), b"", {"Location": mirror.url("/other")})
            content = mirror.files.get(self.path)
            if content is None:
                return self._say(404, b"", {})
            if asked and mirror.knows_ranges:
                first = int(asked.removeprefix("bytes=").rstrip("-"))
                if first >= len(content):
                    return self._say(416, b"", {})
                where = f"bytes {first}-{len(content) - 1}/{len(content)}"
                return self._say(206, content[first:], {"Content-Range": where})
            return self._say(200, content, {})

        def _say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            size = {} if mirror.hides_length else {"Content-Length": str(len(body))}
            for name, value in {**size, **headers, **mirror.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: mirror.break_after.pop(0)] if mirror.break_after else body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
