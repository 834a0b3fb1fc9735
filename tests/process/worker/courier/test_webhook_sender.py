"""One attempt at a delivery, against real servers on loopback; only the resolver is ours."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from common.net.addresses import AddressRules, parse_networks, parse_target
from common.net.pinned import PinnedResolver
from common.settings import Settings
from common.webhooks.signing import new_secret
from tests.integration.test_inputs import INSIDE, OUTSIDE, REDIRECTS, Listener, hostile, names
from tests.support.receiver import Receiver, listening
from worker.courier.webhook_sender import HostBusyError, Sent, WebhookSender

SECRET = new_secret("v1")


class Names:
    """A resolver with a script, as that of the test of input_url."""

    def __init__(self, answers: dict[str, list[list[str]]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        turn = self.asked.count(host)
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self.answers[host][min(turn, len(self.answers[host]) - 1)]


def send_all(urls: Sequence[str], resolver: Names | None = None, **settings: Any) -> list[Sent]:
    async def run() -> list[Sent]:
        values = {"webhook_allow": OUTSIDE, "webhook_timeout_seconds": 3, **settings}
        sender = WebhookSender(Settings(**values), resolve=resolver or Names(names()))
        await sender.start()
        try:
            return [await sender.send(url, "msg_1", b"{}", [SECRET]) for url in urls]
        finally:
            await sender.stop()

    return asyncio.run(run())


@pytest.fixture
def listeners() -> Iterator[tuple[Listener, Listener, Listener]]:
    outside = Listener(OUTSIDE)
    found = outside, Listener(INSIDE, outside.port), Listener("::1", outside.port)
    yield found
    for one in found:
        one.close()


def test_hostile_urls_make_no_connection_inside(
    listeners: tuple[Listener, Listener, Listener],
) -> None:
    outside, inside, inside_six = listeners
    for path, target in REDIRECTS.items():
        outside.bodies[path] = (f"302 Found\r\nLocation: {target.format(port=outside.port)}", b"")
    urls = hostile(outside.port)
    assert len(urls) > 60
    sent = send_all(urls)
    print(f"{len(urls)} hostile URLs: {inside.connections + inside_six.connections} inside")
    for url, one in zip(urls, sent, strict=True):
        assert not one.delivered, url
        redirect = any(url.endswith(path) for path in REDIRECTS)
        assert one.attempt.error.startswith("answered 302" if redirect else "not sent: "), url
        assert "127." not in one.attempt.error, url
    assert inside.connections == inside_six.connections == 0


def test_a_name_that_is_rebound_is_called_where_it_was_judged(
    listeners: tuple[Listener, Listener, Listener],
) -> None:
    outside, inside, _ = listeners
    url = f"http://rebound.test:{outside.port}/"
    first, second = send_all([url, url])
    assert first.delivered, first
    assert second.attempt.error.startswith("not sent: "), "the second time DNS says another"
    assert (outside.connections, inside.connections) == (1, 0)


def test_what_the_operator_opened_is_not_shown_and_what_is_public_would_be() -> None:
    with listening(Receiver()) as receiver:
        receiver.answer = lambda _one: (500, {})
        (one,) = send_all([receiver.url], webhook_allow="127.0.0.0/8")
    assert one.attempt.status == 500
    assert one.attempt.answer == ""
    assert receiver.received[0].headers["accept-encoding"] == "identity"


def test_no_more_of_an_answer_is_read_than_the_bound(
    listeners: tuple[Listener, Listener, Listener],
) -> None:
    outside = listeners[0]
    outside.bodies["/"] = ("200 OK", b"x" * 1_000_000)
    (one,) = send_all([f"http://{OUTSIDE}:{outside.port}/"], webhook_answer_bytes=1_000)
    assert one.delivered


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((404, {}), "answered 404"),
        ((301, {"Location": "http://127.0.0.1/"}), "redirects are not followed"),
        (None, "closed the connection without an answer"),
        (5.0, "no answer within 0.3 s"),
    ],
)
def test_a_failure_says_in_a_sentence_what_it_was(answer: Any, says: str) -> None:
    with listening(Receiver()) as receiver:
        receiver.answer = lambda _one: answer
        (one,) = send_all([receiver.url], webhook_allow="127.0.0.0/8", webhook_timeout_seconds=0.3)
    assert not one.delivered
    assert says in one.attempt.error


def test_a_name_that_is_not_there_and_a_port_where_nobody_listens_are_failures() -> None:
    with socket.socket() as taken:
        taken.bind((OUTSIDE, 0))
        port = taken.getsockname()[1]
        gone, closed = send_all([f"http://nobody.test:{port}/", f"http://good.test:{port}/"])
    assert gone.attempt.error.startswith("not sent: ")
    assert closed.attempt.error == "it could not be reached"


def test_an_answer_of_a_connection_that_leads_inside_is_not_shown_whatever_dns_says_now() -> None:
    """A connection that is kept open was made when the name led elsewhere."""
    answers = {"mixed.test": [["127.0.0.9"], ["93.184.216.34"]]}

    async def run() -> None:
        rules = AddressRules(allowed=parse_networks("127.0.0.0/8"))  # type: ignore[arg-type]
        resolver = PinnedResolver(rules, Names(answers))
        target = parse_target("http://mixed.test/")
        await resolver.resolve("mixed.test", 80)
        await resolver.resolve("mixed.test", 80)
        assert resolver.leads_inside(target)
        assert not resolver.leads_inside(parse_target("http://public.test/"))

    asyncio.run(run())


def test_who_is_canceled_or_refused_while_a_host_is_paced_keeps_no_turn() -> None:
    async def run() -> None:
        settings = Settings(webhook_host_concurrency=1, webhook_host_per_second=0.01)
        sender = WebhookSender(settings)
        target = parse_target("http://93.184.216.34/")
        async with sender._turn(target):
            pass
        for _ in range(3):  # the next is in 100 s
            with pytest.raises(HostBusyError):
                async with sender._turn(target):
                    pass
        sender._next_at[target.host] = time.monotonic() + 0.9
        waiting = asyncio.create_task(sender._turn(target).__aenter__())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert not sender._turns[target.host].locked()

    asyncio.run(run())


def lying(answer: bytes, pause: float = 0.0) -> Sent:
    """One attempt at a server that answers with these bytes, one at a time where it pauses."""

    async def run() -> Sent:
        served = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            with suppress(ConnectionError):
                for piece in [answer] if not pause else [bytes([one]) for one in answer]:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(pause)
            writer.close()
            served.set()

        server = await asyncio.start_server(serve, OUTSIDE)
        port = server.sockets[0].getsockname()[1]
        settings = Settings(webhook_allow=OUTSIDE, webhook_timeout_seconds=0.5)  # type: ignore[arg-type]
        sender = WebhookSender(settings)
        await sender.start()
        try:
            return await sender.send(f"http://{OUTSIDE}:{port}/", "msg_1", b"{}", [SECRET])
        finally:
            await sender.stop()
            await served.wait()
            server.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "pause", "says"),
    [
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 0.0, "cannot be read"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n", 0.0, "cannot be read"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100, 0.02, "no answer within"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 0.0, "cannot be read"),
        (b"HTTP/1.1 999 No\r\n\r\n", 0.0, "answered 999"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10, 0.0, "closed the connection"),
        (b"", 0.0, "closed the connection"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: //127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
            0.0,
            "redirects",
        ),
        (b"\x15\x03\x01\x00\x02\x02\x46", 0.0, "cannot be read"),
    ],
    ids=["huge header", "many headers", "drip", "ssh", "999", "continues", "nothing", "302", "tls"],
)
def test_a_receiver_that_lies_has_failed(answer: bytes, pause: float, says: str) -> None:
    sent = lying(answer, pause)
    assert not sent.delivered
    assert says in sent.attempt.error


def test_a_receiver_without_tls_where_tls_is_asked_for_has_failed() -> None:
    with listening(Receiver()) as receiver:
        (one,) = send_all([receiver.url.replace("http:", "https:")], webhook_allow="127.0.0.0/8")
    assert "TLS" in one.attempt.error
    assert receiver.received == []
