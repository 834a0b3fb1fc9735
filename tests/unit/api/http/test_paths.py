"""Roots of proxies, slashes at the end, HEAD and preflights, without a server."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from api.http import problems
from api.http.cors import allow_origins
from api.http.middleware import RequestLayer
from api.http.paths import under_root
from api.http.request_context import current_root
from common.errors import ConfigurationError
from common.settings import Settings, load_settings

ORIGIN = "https://app.example"


def served(root: str = "") -> RequestLayer:
    app = FastAPI(redirect_slashes=False)
    problems.install(app)

    @app.get("/v1/things/{name}")
    async def get_thing(name: str) -> dict[str, str]:
        return {"name": name, "link": f"{current_root()}/v1/things/{name}"}

    @app.post("/v1/things")
    async def post_thing() -> dict[str, str]:
        return {}

    @app.get("/v1/endless")
    async def endless() -> StreamingResponse:
        async def body() -> Any:
            while True:
                yield b"x"
                await asyncio.sleep(0)

        return StreamingResponse(body())

    return RequestLayer(allow_origins(app, [ORIGIN]), Settings(root_path=root))


def ask(method: str, path: str, root: str = "", **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(served(root))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await asyncio.wait_for(client.request(method, path, **options), 20)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/v1/jobs", "/fleet/v1/jobs"),
        ("/fleet/v1/jobs", "/fleet/v1/jobs"),
        ("/fleet", "/fleet/"),
        ("/", "/fleet/"),
        ("/fleetless", "/fleet/fleetless"),
    ],
)
def test_a_request_is_below_the_root_whether_the_proxy_cut_it_off_or_not(
    path: str, seen: str
) -> None:
    scope = under_root({"path": path, "raw_path": path.encode()}, "/fleet")
    assert (scope["path"], scope["raw_path"]) == (seen, seen.encode())
    assert scope["root_path"] == "/fleet"


@pytest.mark.parametrize("path", ["/v1/things/a", "/deep/er/v1/things/a"])
def test_links_begin_with_the_root(path: str) -> None:
    answer = ask("GET", path, "/deep/er")
    assert answer.json() == {"name": "a", "link": "/deep/er/v1/things/a"}
    assert ask("GET", "/v1/things/a").json()["link"] == "/v1/things/a"


@pytest.mark.parametrize(
    ("root", "kept"), [("/fleet/", "/fleet"), ("/", ""), ("/a/b-c.d_~", "/a/b-c.d_~")]
)
def test_a_root_is_a_path(root: str, kept: str) -> None:
    assert Settings(root_path=root).root_path == kept


@pytest.mark.parametrize("root", ["fleet", "//evil.example", "/a b", "/a?b", "/..", "/é", "/v1"])
def test_a_root_that_is_none_is_refused_in_a_sentence(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANEFLEET_ROOT_PATH", root)
    with pytest.raises(ConfigurationError, match=r"LANEFLEET_ROOT_PATH: .*such as /lanefleet"):
        load_settings()


@pytest.mark.parametrize(
    ("method", "path", "location"),
    [
        ("GET", "/v1/things/a/", "/v1/things/a"),
        ("GET", "/v1/things/a///?wait=5&x=%20", "/v1/things/a?wait=5&x=%20"),
        ("POST", "/v1/things/", "/v1/things"),
        ("GET", "/v1/things/", "/v1/things"),
        ("GET", "/v1/things/a%0d%0ab%3f/", "/v1/things/a%0D%0Ab%3F"),
    ],
)
def test_a_slash_too_many_leads_on_without_naming_a_host(
    method: str, path: str, location: str
) -> None:
    answer = ask(method, path, headers={"Host": "localhost:1"})
    assert (answer.status_code, answer.headers["location"]) == (307, location)
    behind = ask(method, f"/fleet{path}", "/fleet")
    assert behind.headers["location"] == f"/fleet{location}"


@pytest.mark.parametrize("path", ["/nowhere/", "/nowhere//evil.example/", "/"])
def test_a_slash_behind_nothing_is_not_found(path: str) -> None:
    assert ask("GET", path).status_code == 404


def test_head_is_get_without_its_body() -> None:
    get, head = ask("GET", "/v1/things/a"), ask("HEAD", "/v1/things/a")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type"):
        assert head.headers[name] == get.headers[name]
    assert "x-request-id" in head.headers
    assert ask("HEAD", "/v1/endless").status_code == 200
    assert ask("HEAD", "/nowhere").status_code == 404
    assert ask("HEAD", "/v1/things").status_code == 405
    assert ask("GET", "/v1/things").headers["allow"] == "POST"
    assert ask("POST", "/v1/things/a").headers["allow"] == "GET, HEAD"


STAINLESS = "X-Stainless-Lang, x-stainless-os, x-stainless-retry-count, x-stainless-new-one"


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ("authorization, content-type", 200),
        ("X-API-Key, content-type, prefer, idempotency-key", 200),
        (f"authorization, content-type, {STAINLESS}, openai-organization, openai-project", 200),
        (STAINLESS, 200),
        ("x-forwarded-for", 400),
        (f"{STAINLESS}, x-forwarded-for", 400),
    ],
)
def test_a_page_may_send_what_clients_send(asked: str, status: int) -> None:
    headers = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": asked,
    }
    answer = ask("OPTIONS", "/v1/things", headers=headers)
    assert answer.status_code == status
    allowed = {
        name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")
    }
    wanted = {name.strip().lower() for name in asked.split(",")}
    assert wanted - allowed == ({"x-forwarded-for"} if status == 400 else set())
    assert answer.headers["access-control-allow-origin"] == ORIGIN


def test_what_has_no_route_has_an_error_of_either_kind() -> None:
    document = ask("GET", "/v1/chat/completions").json()
    assert (document["status"], document["title"]) == (404, "Not found")
    assert document["error"] == {
        "message": document["detail"],
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found",
    }
    assert ask("DELETE", "/v1/things").json()["error"]["code"] == "method_not_allowed"
    refused = ask("GET", "/v1/models", headers={"Host": "evil.example"}).json()
    assert (refused["status"], refused["error"]["code"]) == (421, "misdirected_request")
    assert "error" not in ask("GET", "/v1/jobs", headers={"Host": "evil.example"}).json()
