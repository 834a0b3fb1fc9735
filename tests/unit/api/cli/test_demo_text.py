"""The demo ends with a sentence where its model can run, and well where it cannot."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from api.cli.demo_text import PROMPT, can_write, write_sentence
from api.client import Client

TOLD = b"""event: token
id: 1-1.1.4
data: {"text":" you","tokens":[1],"choice":0}

event: token
id: 1-1.2.10
data: {"text":" wait.","tokens":[2],"choice":0,"finish_reason":"stop"}

event: succeeded
id: 1-end
data: {"id":"a","model":"smollm2","state":"succeeded"}

"""


@pytest.mark.parametrize(
    ("weights", "can"),
    [("package:orjson/x.gguf", True), ("package:no_such_package", False), ("none", False)],
)
def test_it_is_written_where_the_weights_are_installed(
    tmp_path: Path, weights: str, can: bool
) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(f"models: {{smollm2: {{handler: echo, task: generate, weights: {weights}}}}}")
    assert can_write(path) is can
    path.write_text("models: {echo: {handler: echo}}")
    assert not can_write(path)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(200, content=TOLD), " you wait."),
        (httpx.Response(503, json={"detail": "no worker"}), ""),
    ],
)
def test_the_sentence_or_why_there_is_none(answer: httpx.Response, said: str) -> None:
    def respond(_request: httpx.Request) -> httpx.Response:
        return answer

    printed = io.StringIO()
    transport = httpx.MockTransport(respond)
    http: Any = httpx.Client(base_url="http://fleet", transport=transport)
    with Client(retries=0, http=http) as client:
        assert write_sentence(Console(file=printed, width=200), client) == said
    assert PROMPT in printed.getvalue()
    assert (said or "no worker") in printed.getvalue()
