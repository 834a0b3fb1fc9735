"""Inputs by URL, against real servers on loopback that misbehave; only the resolver is ours."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import socket
import ssl
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest

from common.errors import FleetError, InputTooLarge, InputUrlFailed, InputUrlRefused
from common.settings import Settings
from worker.inputs.url_inputs import UrlInputs

PICTURES = "127.0.0.1"
LIMIT = 100_000
GZIP, DEFLATE = ["Content-Encoding: gzip"], ["Content-Encoding: deflate"]


@dataclass
class Server:
    """Answers each connection with a script of its own; keeps what it was asked."""

    answer: Callable[[socket.socket], None]
    tls: ssl.SSLContext | None = None
    asked: list[bytes] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    """By SNI."""

    def __post_init__(self) -> None:
        if self.tls:
            self.tls.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self._socket = socket.create_server((PICTURES, 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with (
                self.tls.wrap_socket(connection, server_side=True) if self.tls else connection as it
            ):
                self.asked.append(it.recv(65536))
                self.answer(it)
        except OSError:
            pass

    def close(self) -> None:
        """Accept no more."""
        self._socket.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: Callable[[socket.socket], None] | bytes, tls: object = None) -> Server:
        script = (lambda it: it.sendall(answer)) if isinstance(answer, bytes) else answer
        servers.append(Server(script, tls))  # type: ignore[arg-type]
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def reply(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """A whole answer."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Names:
    """A resolver with a script: per name the answers to the first, the second, ... question."""

    answers: dict[str, Sequence[Sequence[str]]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        turn = self.asked.count(host)
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self.answers[host][min(turn, len(self.answers[host]) - 1)]


def fetch(
    url: str, names: Names | None = None, tls: ssl.SSLContext | None = None, **settings: object
) -> bytes:
    """Fetch it as a worker does that is allowed to reach one loopback address."""
    values = {"fetch_allow": [ip_network(PICTURES)], "fetch_max_bytes": LIMIT, **settings}
    inputs = UrlInputs(Settings(**values), resolve=names, ssl_context=tls)  # type: ignore[arg-type]
    return asyncio.run(inputs.fetch(url))


def test_the_body_comes_as_it_is_with_the_host_that_was_asked_for(serve: Callable) -> None:
    server = serve(reply(b"\x00pixels"))
    names = Names({"pictures.test": [[PICTURES]]})
    assert fetch(f"http://pictures.test:{server.port}/a%20b?c=d#e", names) == b"\x00pixels"
    [asked] = server.asked
    assert asked.startswith(b"GET /a%20b?c=d HTTP/1.1\r\n")
    assert f"Host: pictures.test:{server.port}\r\n".encode() in asked
    assert b"Accept-Encoding: identity" in asked


def test_a_name_is_resolved_once_and_not_again_for_the_connection(serve: Callable) -> None:
    server = serve(reply(b"here"))
    names = Names({"rebound.test": [[PICTURES], ["127.0.0.2"]]})
    assert fetch(f"http://rebound.test:{server.port}/", names) == b"here"
    assert names.asked == ["rebound.test"]


@pytest.mark.parametrize(
    "answer",
    [
        [PICTURES, "127.0.0.2"],
        ["127.0.0.2", PICTURES],
        [PICTURES, "::1"],
        [PICTURES, "::ffff:a00:1"],
        [],
    ],
)
def test_one_bad_address_among_good_ones_refuses_all(serve: Callable, answer: list[str]) -> None:
    server = serve(reply(b"here"))
    with pytest.raises(InputUrlRefused, match="no address on the public internet"):
        fetch(f"http://mixed.test:{server.port}/", Names({"mixed.test": [answer]}))
    assert server.asked == []


def test_a_name_that_is_not_there_reads_like_one_that_is_inside() -> None:
    names = Names({"vault.internal": [["10.0.0.7"]]})
    said = set()
    for host in ("vault.internal", "no.internal"):
        with pytest.raises(InputUrlRefused) as caught:
            fetch(f"http://{host}/", names)
        said.add(str(caught.value))
        assert "10.0.0.7" not in str(caught.value)
    assert len(said) == 1


def test_the_second_address_is_tried_where_the_first_does_not_answer(serve: Callable) -> None:
    server = serve(reply(b"here"))
    names = Names({"two.test": [["127.0.0.3", PICTURES]]})
    allow = [ip_network("127.0.0.0/8")]
    assert fetch(f"http://two.test:{server.port}/", names, fetch_allow=allow) == b"here"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_not_followed(serve: Callable, status: str) -> None:
    inner = serve(reply(b"secret"))
    location = f"Location: http://{PICTURES}:{inner.port}/"
    server = serve(reply(b"moved", location, status=status))
    with pytest.raises(InputUrlFailed, match=f"answered {status[:3]}; redirects are not followed"):
        fetch(f"http://{PICTURES}:{server.port}/")
    assert len(server.asked) == 1
    assert inner.asked == []


def test_a_client_error_is_not_asked_again_and_a_server_error_is(serve: Callable) -> None:
    gone = serve(reply(b"the body of a 404 is nobody's business", status="404 Not Found"))
    with pytest.raises(InputUrlFailed, match="answered 404 instead of 200") as caught:
        fetch(f"http://{PICTURES}:{gone.port}/")
    assert "business" not in str(caught.value)
    assert len(gone.asked) == 1
    ill = serve(reply(b"", status="503 Unavailable"))
    with pytest.raises(InputUrlFailed, match="answered 503, also when asked again"):
        fetch(f"http://{PICTURES}:{ill.port}/", fetch_tries=2)
    assert len(ill.asked) == 2


def test_a_server_that_recovers_is_enough(serve: Callable) -> None:
    def answer(it: socket.socket) -> None:
        it.sendall(reply(b"late") if len(server.asked) > 1 else b"HTTP/1.1 500 No\r\n\r\n")

    server = serve(answer)
    assert fetch(f"http://{PICTURES}:{server.port}/") == b"late"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"+PONG\r\n-ERR unknown command\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive.",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfive.\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
    ],
)
def test_what_is_no_answer_is_a_failure_that_does_not_quote_it(
    serve: Callable, answer: bytes
) -> None:
    server = serve(answer)
    with pytest.raises(InputUrlFailed) as caught:
        fetch(f"http://{PICTURES}:{server.port}/", fetch_tries=1)
    assert str(caught.value) == "`input_url`: its server could not be reached"


def chunked(
    pieces: int, piece: bytes = b"x" * 10_000, first: bytes = b"", *headers: str
) -> Callable[[socket.socket], None]:
    """Sends a body without a length, of 10 KB pieces."""

    def answer(it: socket.socket) -> None:
        lines = ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *headers]
        it.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        for part in ([first] if first else []) + [piece] * pieces:
            it.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        it.sendall(b"0\r\n\r\n")

    return answer


def test_the_size_is_counted_and_not_believed(serve: Callable) -> None:
    fits = serve(chunked(10))
    assert len(fetch(f"http://{PICTURES}:{fits.port}/")) == LIMIT
    endless = serve(chunked(100_000))
    declared = serve(reply(b"x", length=LIMIT + 1))
    until_closed = serve(b"HTTP/1.0 200 OK\r\nContent-Length: \r\n\r\n" + b"x" * 50)
    for server in (endless, declared):
        with pytest.raises(InputTooLarge, match="larger than 100000 bytes"):
            fetch(f"http://{PICTURES}:{server.port}/")
    with pytest.raises(InputUrlFailed):
        fetch(f"http://{PICTURES}:{until_closed.port}/", fetch_tries=1)


def test_a_compressed_answer_is_counted_after_decompression(serve: Callable) -> None:
    small = serve(reply(gzip.compress(b"pixels"), "Content-Encoding: gzip"))
    assert fetch(f"http://{PICTURES}:{small.port}/") == b"pixels"
    bomb = serve(reply(gzip.compress(b"\0" * 90_000_000), "Content-Encoding: gzip"))
    with pytest.raises(InputTooLarge, match="larger than"):
        fetch(f"http://{PICTURES}:{bomb.port}/")
    cut = serve(reply(gzip.compress(b"pixels" * 100)[:-9], "Content-Encoding: gzip"))
    with pytest.raises(InputUrlFailed, match="cut off"):
        fetch(f"http://{PICTURES}:{cut.port}/")
    other = serve(reply(b"x", "Content-Encoding: br"))
    with pytest.raises(InputUrlFailed, match="not asked for"):
        fetch(f"http://{PICTURES}:{other.port}/")


def test_what_follows_the_end_of_a_compressed_answer_is_not_read(serve: Callable) -> None:
    compressed = gzip.compress(b"x")
    ends = chunked(0, b"", compressed, *GZIP)
    assert fetch(f"http://{PICTURES}:{serve(ends).port}/") == b"x"
    for headers, first in ((GZIP, compressed), (DEFLATE, zlib.compress(b"x"))):
        server = serve(chunked(30_000, b"x" * 10_000, first, *headers))  # 300 MB
        began = time.monotonic()
        with pytest.raises(InputUrlFailed, match="something follows what its server compressed"):
            fetch(f"http://{PICTURES}:{server.port}/", fetch_max_bytes=1_000_000_000)
        assert time.monotonic() - began < 20
        assert len(server.asked) == 1
    for tail in (compressed, b"\0"):
        server = serve(reply(compressed + tail, *GZIP))
        with pytest.raises(InputUrlFailed, match="something follows"):
            fetch(f"http://{PICTURES}:{server.port}/")


def test_what_is_compressed_to_nothing_is_counted_as_it_arrives(serve: Callable) -> None:
    head, empty_block = gzip.compress(b"")[:10], b"\0\0\0\xff\xff"
    server = serve(chunked(30_000, empty_block * 2_000, head, *GZIP))
    began = time.monotonic()
    with pytest.raises(InputTooLarge, match="larger than 100000 bytes"):
        fetch(f"http://{PICTURES}:{server.port}/")
    assert time.monotonic() - began < 20


def drip(it: socket.socket) -> None:
    """A byte now and then, so that no single read takes long."""
    it.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n")
    for _ in range(1000):
        it.sendall(b"x")
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [drip, lambda _it: time.sleep(40)])
def test_a_slow_server_ends_at_the_total_time(
    serve: Callable, answer: Callable[[socket.socket], None]
) -> None:
    server = serve(answer)
    began = time.monotonic()
    with pytest.raises(InputUrlFailed, match=r"within 0\.6 s|could not be reached"):
        fetch(f"http://{PICTURES}:{server.port}/", fetch_seconds=0.6)
    assert time.monotonic() - began < 20


def test_a_resolver_that_hangs_ends_at_the_total_time() -> None:
    async def hang(_host: str, _port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    began = time.monotonic()
    with pytest.raises(InputUrlFailed):
        fetch("http://slow.test/", hang, fetch_seconds=0.5)  # type: ignore[arg-type]
    assert time.monotonic() - began < 20


def test_proxies_of_the_environment_are_not_used(
    serve: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, proxy = serve(reply(b"direct")), serve(reply(b"by proxy"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{PICTURES}:{proxy.port}")
    assert fetch(f"http://{PICTURES}:{server.port}/") == b"direct"
    assert proxy.asked == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and self-signed certificate of pictures.test, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=pictures.test", "-addext", "subjectAltName=DNS:pictures.test"]
    subprocess.run(
        [openssl, *command, "-keyout", key, "-out", cert], check=True, capture_output=True
    )
    both = folder / "both.pem"
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


def test_tls_asks_for_the_name_and_checks_it_though_the_address_is_connected_to(
    serve: Callable, certificate: Path
) -> None:
    inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inside.load_cert_chain(certificate)
    server = serve(reply(b"sealed"), inside)
    trusting = ssl.create_default_context(cafile=certificate)
    names = Names({"pictures.test": [[PICTURES]], "other.test": [[PICTURES]]})
    assert fetch(f"https://pictures.test:{server.port}/", names, trusting) == b"sealed"
    assert server.names == ["pictures.test"]
    assert f"Host: pictures.test:{server.port}".encode() in server.asked[0]
    for url, context in (
        (f"https://other.test:{server.port}/", trusting),
        (f"https://{PICTURES}:{server.port}/", trusting),
        (f"https://pictures.test:{server.port}/", None),
    ):
        with pytest.raises(InputUrlFailed, match="could not be reached"):
            fetch(url, names, context, fetch_tries=1)
    assert len(server.asked) == 1, "nothing was asked of a server that is not whom it should be"


def test_those_that_hang_do_not_hold_up_the_others(serve: Callable) -> None:
    hung, quick = serve(lambda _it: time.sleep(10)), serve(reply(b"here"))
    inputs = UrlInputs(
        Settings(fetch_allow=[ip_network(PICTURES)], fetch_seconds=4, fetch_tries=1)  # type: ignore[arg-type]
    )

    async def one(port: int) -> float:
        began = time.monotonic()
        try:
            await inputs.fetch(f"http://{PICTURES}:{port}/")
        except FleetError:
            return -1.0
        return time.monotonic() - began

    async def many() -> list[float]:
        waiting = [asyncio.create_task(one(hung.port)) for _ in range(30)]
        await asyncio.sleep(0.1)
        taken = [await one(quick.port) for _ in range(5)]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return taken

    assert 0 <= max(asyncio.run(many())) < 1
