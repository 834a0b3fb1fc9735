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

from common.broker import create_app
from tests.faults.test_redis_trouble import Server
from tests.support.stack import IN_CI, ROOT, Stack


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


def test_every_role_does_its_work_and_no_more(
    binary: str, tmp_path: Path, closing: list[Stack | Server]
) -> None:
    acl = tmp_path / "users.acl"
    shipped = (ROOT / "deploy" / "redis" / "users.acl").read_text()
    # An ACL file has no comments; the server takes lines that begin with `user`.
    acl.write_text("".join(f"{one}\n" for one in shipped.splitlines() if one.startswith("user")))

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
    ):
        client = redis.Redis.from_url(url(role))
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command.split())
