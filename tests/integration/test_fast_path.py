"""The hot route and the plain application: two ways in, one behaviour."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from api.app import create_app
from api.cli.fleet import free_port
from api.routes.fast_path import FastPath
from common.settings import Settings
from tests.support.stack import ROOT, Stack

JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=cut"}
LIMITS = b',"params":{"k":1},"priority":9,"deadline":5,"start_within":2}'
GOOD = b'{"model":"echo","input":{"a":[1,null,"\xc3\xa9"]}}'
LARGE = b'{"model":"echo","input":"' + b"x" * 5_000 + b'"}'


@dataclass(frozen=True)
class Case:
    """One request, and whether the hot route takes it."""

    name: str
    content: bytes = GOOD
    method: str = "POST"
    path: str = "/v1/jobs"
    headers: dict[str, str] = field(default_factory=lambda: JSON)
    hot: bool = True
    chunked: bool = False


def part(name: str, value: bytes, more: str = "") -> bytes:
    head = f'--cut\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + value + b"\r\n"


FILE = part("file", b"hello", '; filename="a.txt"')

CASES = [
    Case("a good job"),
    Case(
        "all fields", GOOD[:-1] + b',"params":{"k":1},"priority":9,"deadline":5,"start_within":2}'
    ),
    Case("a charset", headers={"content-type": "Application/JSON; charset=utf-8"}),
    Case("a +json type", headers={"content-type": "application/vnd.job+json"}),
    Case("a query string", path="/v1/jobs?wait=3&x=%20"),
    Case("an escaped path", path="/v1/%6Aobs"),
    Case("chunked", chunked=True),
    Case("no wish to wait", headers={**JSON, "prefer": "respond-async"}),
    Case("waiting in vain", headers={**JSON, "prefer": "wait=0.1"}),
    Case("not JSON", b'{"model": "echo", '),
    Case("an empty body", b""),
    Case("NaN", b'{"model":"echo","input":NaN}'),
    Case("broken UTF-8", b'{"model":"echo","input":"\xff"}'),
    Case("no object", b"[1, 2]"),
    Case("a missing field", b'{"input":1}'),
    Case("two wrong types", b'{"model":7,"input":1,"priority":"high"}'),
    Case("an unknown field", b'{"model":"echo","input":1,"colour":"red"}'),
    Case("an unknown model", b'{"model":"nope","input":1}'),
    Case("a wrong input", b'{"model":"minilm","input":7}'),
    Case("no image", b'{"model":"text-detect","input":"aGVsbG8="}'),
    Case("too large by its length", LARGE),
    Case("too large in chunks", LARGE, chunked=True),
    Case("another content type", headers={"content-type": "text/xml"}),
    Case("no content type", headers={}),
    Case("a file", part("model", b"minilm") + FILE + b"--cut--\r\n", headers=FORM),
    Case("no file", part("model", b"minilm") + b"--cut--\r\n", headers=FORM),
    Case("bad params", part("params", b"{") + FILE + b"--cut--\r\n", headers=FORM),
    Case("no boundary", b"x", headers={"content-type": "multipart/form-data"}),
    Case("a broken part", b"--cut\r\nnonsense\r\n\r\nx\r\n--cut--\r\n", headers=FORM),
    Case("a trailing slash", path="/v1/jobs/", hot=False),
    Case("a double slash", path="//v1/jobs", hot=False),
    Case("HEAD", b"", "HEAD", hot=False),
    Case("GET", b"", "GET", hot=False),
    Case("PUT", method="PUT", hot=False),
    Case("OPTIONS", b"", "OPTIONS", hot=False),
]


class Layers:
    """Marks what went through the application's middlewares."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-layers", b"all")]
            await send(message)

        await self._app(scope, receive, marked)


@asynccontextmanager
async def serving(redis_url: str, **settings: Any) -> AsyncIterator[FastAPI]:
    chosen = {
        "models": ("echo", "minilm", "text-detect"),
        "catalog": ROOT / "deploy" / "models.yaml",
        "max_body_bytes": 4_096,
        **settings,
    }
    app = create_app(Settings(redis_url=redis_url, **chosen), redis_url)  # type: ignore[arg-type]
    app.add_middleware(Layers)
    async with app.router.lifespan_context(app):
        yield app


Send_ = Callable[[Case], Awaitable[httpx.Response]]


@asynccontextmanager
async def client_of(app: ASGIApp, root_path: str = "") -> AsyncIterator[Send_]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path=root_path)

    async def pieces(content: bytes) -> AsyncIterator[bytes]:
        for first in range(0, len(content), 1_000):
            yield content[first : first + 1_000]

    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:

        async def send(case: Case) -> httpx.Response:
            content = pieces(case.content) if case.chunked else case.content
            path = case.path if case.path.startswith("//") else root_path + case.path
            url = httpx.URL(f"http://api{path}")
            return await client.request(case.method, url, content=content, headers=case.headers)

        yield send


def seen(answer: httpx.Response) -> dict[str, Any]:
    """What a client sees, less what differs from one job or moment to the next."""
    body = re.sub(r"[0-9a-f-]{36}", "ID", answer.text)
    # A client that is turned away is told a moment of its own; times may lack a fraction.
    varying = {"x-layers", "retry-after", "content-length"}
    headers = [
        (name, re.sub(r"[0-9a-f-]{36}", "ID", value))
        for name, value in answer.headers.multi_items()
        if name not in varying
    ]
    body = re.sub(r'"created_at":"[^"]+"', '"created_at":"NOW"', body)
    body = re.sub(r'"retry_after":[0-9.]+', '"retry_after":N', body)
    body = re.sub(r'"queue_position":\d+', '"queue_position":N', body)
    return {"status": answer.status_code, "body": body, "headers": headers}


async def compare(app: FastAPI, cases: list[Case], root_path: str = "") -> set[int]:
    """Send each case both ways; returns the statuses seen."""
    statuses = set()
    async with (
        client_of(app, root_path) as ask_plain,
        client_of(FastPath(app), root_path) as ask_hot,
    ):
        for case in cases:
            expected, found = await asyncio.gather(ask_plain(case), ask_hot(case))
            assert seen(found) == seen(expected), case.name
            assert "x-layers" in expected.headers, case.name
            assert ("x-layers" not in found.headers) == case.hot, case.name
            statuses.add(found.status_code)
    return statuses


def test_both_ways_in_answer_alike(stack: Stack) -> None:
    async def run() -> None:
        async with serving(stack.redis_url) as app:
            statuses = await compare(app, CASES)
            assert statuses == {200, 202, 307, 400, 404, 405, 413, 415, 422}

    asyncio.run(run())
    good = stack.redis.llen("echo")
    assert good > 0
    assert good % 2 == 0


def test_both_ways_in_answer_alike_under_a_root_path(stack: Stack) -> None:
    cases = [case for case in CASES if not case.path.startswith("//")]

    async def run() -> None:
        async with serving(stack.redis_url) as app:
            await compare(app, cases, root_path="/base")

    asyncio.run(run())


def test_a_mounted_application_takes_jobs_both_ways(stack: Stack) -> None:
    async def run() -> None:
        async with serving(stack.redis_url) as app:
            mounted = Starlette(routes=[Mount("/base", FastPath(app))])
            async with client_of(mounted) as send:
                answer = await send(Case("mounted", path="/base/v1/jobs"))
                assert (answer.status_code, "x-layers" in answer.headers) == (202, False)
                answer = await send(Case("elsewhere", path="/v1/jobs"))
                assert answer.status_code == 404

    asyncio.run(run())


def test_both_ways_in_say_that_a_lane_is_full(stack: Stack) -> None:
    async def run() -> None:
        async with serving(stack.redis_url, max_backlog=1) as app:
            async with client_of(app) as send:
                assert (await send(Case("the first"))).status_code == 202
            assert await compare(app, [Case("full")]) == {429}

    asyncio.run(run())


def test_both_ways_in_say_that_redis_is_away() -> None:
    async def run() -> None:
        async with serving(f"redis://127.0.0.1:{free_port()}/0") as app:
            assert await compare(app, [Case("no Redis")]) == {503}

    asyncio.run(run())


def test_an_error_of_our_own_is_a_problem_without_internals(stack: Stack) -> None:
    async def run() -> None:
        async with serving(stack.redis_url) as app:
            app.state.services = None
            for way in (app, FastPath(app)):
                async with client_of(way) as send:
                    with capture_logs() as logged:
                        answer = await send(Case("broken"))
                assert [event["event"] for event in logged] == ["request_failed"]
                assert (answer.status_code, answer.json()["title"]) == (500, "Internal error")
                assert "NoneType" not in answer.text

    asyncio.run(run())


def test_a_client_that_leaves_early_queues_nothing(stack: Stack) -> None:
    messages = [
        {"type": "http.request", "body": GOOD[:10], "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/jobs", "headers": headers}
        async with serving(stack.redis_url) as app:
            await FastPath(app)(scope, receive, send)

    asyncio.run(run())
    assert sent[0]["status"] == 400  # nobody reads it, and nothing is logged
    assert not stack.redis.exists("echo")
