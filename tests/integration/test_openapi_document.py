"""The served OpenAPI document is true: schemathesis walks the API along it with all its checks.

By hand, against an API that runs:

    st --config-file tests/schemathesis.toml run http://127.0.0.1:8000/openapi.json -n 150 \\
        -H "Authorization: Bearer $LANEFLEET_API_KEY"

The API asks for a key here, so that schemathesis sees that it does.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api.tenants.api_keys import Keyring
from common.redis.embedded_server import RedisServer
from tests.support.stack import ROOT, ApiProcess, Stack

_CASES = re.compile(r"(\d[\d,]*) generated")


@pytest.fixture(scope="module")
def api(
    embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiProcess]:
    stack = Stack(embedded_redis.url, tmp_path_factory.mktemp("openapi"))
    stack.environment["LANEFLEET_FILES_URL"] = (stack.folder / "files").as_uri()
    stack.redis.flushall()
    stack.worker("echo,minilm")
    with stack.redis as client:
        _, key = Keyring(client).create("walk", "walkers", frozenset({"admin"}))
    found = stack.api(
        "echo,minilm",
        LANEFLEET_API_KEYS_REQUIRED="true",
        LANEFLEET_MAX_HEADER_BYTES="10000000",  # made-up lists are long
    )
    found.headers["Authorization"] = f"Bearer {key}"
    yield found
    stack.close()


def walk(api: ApiProcess, examples: int, *more: str) -> tuple[int, str]:
    """Have schemathesis walk the API; returns how many requests it made, and its summary."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", "tests/schemathesis.toml"),
            *("run", f"{api.url}/openapi.json", "--max-examples", str(examples), *more),
            *("-H", f"Authorization: {api.headers['Authorization']}"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    log = api.process.output()
    assert run.returncode == 0, run.stdout[-12_000:] + run.stderr[-3_000:] + log[-3_000:]
    assert "Traceback" not in log
    found = _CASES.search(run.stdout)
    assert found, run.stdout
    return int(found.group(1).replace(",", "")), run.stdout[run.stdout.index("= SUMMARY") :]


def test_a_short_walk_finds_nothing_undocumented(api: ApiProcess) -> None:
    cases, _ = walk(api, 3, "--no-shrink")
    assert cases > 100


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_thousand_examples_find_nothing_undocumented(api: ApiProcess) -> None:
    cases, summary = walk(api, 150)
    print(summary)
    assert cases >= 2_000


def test_every_link_leads_somewhere(api: ApiProcess) -> None:
    document: dict[str, Any] = httpx.get(f"{api.url}/openapi.json").json()
    operations = [one for path in document["paths"].values() for one in path.values()]
    known = [one["operationId"] for one in operations]
    assert len(known) == len(set(known))
    links = [
        link
        for operation in operations
        for answer in operation["responses"].values()
        for link in answer.get("links", {}).values()
    ]
    assert len(links) >= 4
    assert {link["operationId"] for link in links} <= set(known)


def test_every_json_body_is_read_strictly(api: ApiProcess) -> None:
    document: dict[str, Any] = httpx.get(f"{api.url}/openapi.json").json()
    asked = 0
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if "application/json" not in operation.get("requestBody", {}).get("content", {}):
                continue
            url = api.url + re.sub(r"\{\w+\}", "echo", path)
            for body in (b'{"a":1,"a":2}', b'{"a":NaN}', b"[" * 100_000):
                headers = {"Content-Type": "application/json", **api.headers}
                answer = httpx.request(method, url, content=body, headers=headers)
                assert answer.status_code == 400, (method, path, answer.text)
                asked += 1
    assert asked >= 9
