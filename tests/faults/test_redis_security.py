"""TLS, and one ACL user per role with the shipped file."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
from celery import Celery

from api.cli.fleet import free_port
from common.broker import create_app
from common.jobs.job import Job
from tests.faults.test_redis_trouble import Server
from tests.support.stack import IN_CI, ROOT, Stack, wait_until


@pytest.fixture
def binary() -> str:
    path = shutil.which("redis-server")
    if path is None:
        (pytest.fail if IN_CI else pytest.skip)("no redis-server on PATH")
    assert path is not None
    return path


@pytest.fixture
def closing() -> Iterator[list[Stack | Server]]:
    made: list[Stack | Server] = []
    yield made
    for one in made:
        one.close() if isinstance(one, Stack) else one.kill()


def make_certificates(folder: Path) -> None:
    if shutil.which("openssl") is None:
        (pytest.fail if IN_CI else pytest.skip)("no openssl to make certificates with")
    folder.mkdir()
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )


class TlsServer(Server):
    @property
    def url(self) -> str:
        ca = self.folder.parent / "tls" / "cert.pem"
        return f"rediss://127.0.0.1:{self.port}/0?ssl_cert_reqs=required&ssl_ca_certs={ca}"

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=2)


def test_a_job_over_tls(binary: str, tmp_path: Path, closing: list[Stack | Server]) -> None:
    make_certificates(tmp_path / "tls")
    server = TlsServer(tmp_path / "redis", binary=binary)
    tls = tmp_path / "tls"
    server.options = [
        *("--tls-port", str(server.port), "--port", "0", "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(tls / "cert.pem"), "--tls-key-file", str(tls / "key.pem")),
        *("--tls-ca-cert-file", str(tls / "cert.pem")),
    ]
    closing.append(server.start())
    stack = Stack(server.url, tmp_path)
    closing.append(stack)
    stack.worker("echo")
    api = stack.api("echo")
    assert api.client.submit("echo", "secret", wait=10)["state"] == "succeeded"
    app = create_app(stack.redis_url, stack.settings)
    assert app.control.inspect(timeout=20, limit=1).ping()


@pytest.fixture
def guarded_sentinel(
    binary: str, tmp_path: Path, closing: list[Stack | Server]
) -> Iterator[tuple[str, Path]]:
    """Where a Sentinel listens that speaks TLS and has a password, its master another; the CA."""
    make_certificates(tmp_path / "tls")
    tls = tmp_path / "tls"
    options = {
        "port": "0",
        "tls-auth-clients": "no",
        "tls-replication": "yes",
        "tls-cert-file": str(tls / "cert.pem"),
        "tls-key-file": str(tls / "key.pem"),
        "tls-ca-cert-file": str(tls / "cert.pem"),
    }

    class Guarded(TlsServer):
        def client(self) -> redis.Redis:
            return redis.Redis.from_url(self.url, password="of-the-master", socket_timeout=2)

    master = Guarded(tmp_path / "redis", binary=binary)
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    master.options = [*flags, "--tls-port", str(master.port), "--requirepass", "of-the-master"]
    closing.append(master.start())
    port = free_port()
    config = tmp_path / "sentinel.conf"
    lines = {
        **options,
        "tls-port": str(port),
        "bind": "127.0.0.1",
        "dir": str(tmp_path),
        "requirepass": "of-the-sentinels",
        "sentinel monitor mymaster": f"127.0.0.1 {master.port} 1",
        "sentinel auth-pass mymaster": "of-the-master",
    }
    config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    sentinel = subprocess.Popen([binary, str(config), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}", tls / "cert.pem"
    finally:
        sentinel.kill()
        sentinel.wait()


@pytest.mark.slow
def test_a_job_through_a_sentinel_with_its_own_password_and_tls(
    guarded_sentinel: tuple[str, Path],
    tmp_path: Path,
    closing: list[Stack | Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, ca = guarded_sentinel
    monkeypatch.setenv("LANEFLEET_SENTINEL_PASSWORD", "of-the-sentinels")
    monkeypatch.setenv("LANEFLEET_SENTINEL_TLS", "true")
    stack = Stack(f"sentinel://:of-the-master@{place}/2?ssl_ca_certs={ca}", tmp_path)
    closing.append(stack)
    wait_until(lambda: _answers(stack), 20, "the Sentinel to know its master")
    stack.worker("echo")
    api = stack.api("echo")
    assert api.client.submit("echo", "guarded twice", wait=10)["state"] == "succeeded"
    app = create_app(stack.redis_url, stack.settings)
    assert app.control.inspect(timeout=20, limit=1).ping()
    assert app.AsyncResult(stack.publish([Job("echo", 1)])[0]).get(timeout=20)
    assert stack.redis.connection_pool.connection_kwargs["db"] == 2


def _answers(stack: Stack) -> bool:
    try:
        return bool(stack.redis.ping())
    except redis.RedisError:
        return False


def test_every_role_does_its_work_and_no_more(
    binary: str, tmp_path: Path, closing: list[Stack | Server]
) -> None:
    acl = tmp_path / "users.acl"
    shutil.copy(ROOT / "deploy" / "redis" / "users.acl", acl)

    class Guarded(Server):
        def client(self) -> redis.Redis:
            return redis.Redis(port=self.port, username="admin", password="change-me-admin")

    server = Guarded(tmp_path / "redis", ["--aclfile", str(acl)], binary=binary).start()
    closing.append(server)

    def url(role: str) -> str:
        return f"redis://{role}:change-me-{role}@127.0.0.1:{server.port}/0"

    stack = Stack(url("admin"), tmp_path)
    closing.append(stack)
    stack.worker("echo", LANEFLEET_REDIS_URL=url("worker"))
    api = stack.api("echo", LANEFLEET_REDIS_URL=url("api"))
    assert api.client.submit("echo", 1, wait=10)["state"] == "succeeded"
    assert api.client.lanes()["echo"]["succeeded"] == 1
    assert api.client.cancel(api.client.submit("echo", 2, wait=10)["id"])["state"] == "succeeded"
    assert api.client.dead("echo") == []
    assert len(httpx.get(f"{api.url}/v1/jobs").json()["jobs"]) == 2
    assert httpx.post(f"{api.url}/v1/lanes/nowhere/drop").status_code == 404
    wait_until(
        lambda: "lanefleet_batch_still_seconds" in httpx.get(f"{api.url}/metrics").text,
        20,
        "unfinished batches to be read",
    )
    with redis.Redis.from_url(url("admin")) as admin:
        assert admin.get("lf:format") == b"1", "api and worker may write it"
    flower = Celery("flower", broker=url("flower"), backend=url("flower"))
    assert flower.control.inspect(timeout=20, limit=1).ping()

    keda = redis.Redis.from_url(url("keda"))
    assert keda.llen("echo") == 0
    for role, command in (
        ("api", "FLUSHALL"),
        ("api", "CONFIG GET maxmemory"),
        ("worker", "FLUSHALL"),
        ("keda", "LPUSH echo x"),
        ("keda", "GET lf:job:1"),
        ("flower", "GET lf:job:1"),
        ("flower", "GET celery-task-meta-1"),
        ("flower", "SET celery-task-meta-1 forged"),
        ("flower", "PUBLISH celery-task-meta-1 forged"),
        ("keda", "HGETALL lf:keys"),
        ("keda", "CLIENT PAUSE 1000"),
        ("api", "CLIENT KILL TYPE normal"),
        ("worker", "MIGRATE 127.0.0.1 1 x 0 10"),
        ("worker", "KEYS *"),
    ):
        client = redis.Redis.from_url(url(role))
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command.split())
