"""Which model a task-shaped route takes, and OpenAI's shapes."""

from __future__ import annotations

import base64
import json
import math
import struct
from pathlib import Path

import pytest

from api.http.problems import Problem
from api.http.request_errors import WrongResult
from api.inference.openai import EmbeddingsRequest, embeddings_json
from api.routes.openai_errors import error_response
from common.catalog import Catalog, load_catalog
from common.errors import ConfigurationError


def catalog_of(folder: Path, text: str) -> Catalog:
    path = folder / "models.yaml"
    path.write_text(text)
    return load_catalog(path)


@pytest.mark.parametrize(
    ("models", "aliases", "chosen"),
    [
        ("a: {handler: echo, task: embed}", "", "a"),
        ("a: {handler: echo, task: embed}\n  b: {handler: echo, task: embed}", "", None),
        (
            "a: {handler: echo, task: embed}\n  b: {handler: echo, task: embed, default: true}",
            "",
            "b",
        ),
        (
            "m@1: {handler: echo, task: embed}\n  m@2: {handler: echo, task: embed}",
            "m: m@1",
            "m",
        ),
        (
            "a: {handler: echo, task: embed, default: true}\n  b@1: {handler: echo, task: embed}",
            "b: b@1",
            "a",
        ),
        ("a: {handler: echo, task: embed}", "one: a, two: a", None),
        ("a: {handler: echo, task: detect}", "", None),
    ],
)
def test_a_task_has_a_default_where_the_choice_is_clear(
    tmp_path: Path, models: str, aliases: str, chosen: str | None
) -> None:
    catalog = catalog_of(tmp_path, f"aliases: {{{aliases}}}\nmodels:\n  {models}\n")
    assert catalog.default_for("embed") == chosen


def test_the_default_is_among_what_is_served(tmp_path: Path) -> None:
    both = "models:\n  a: {handler: echo, task: embed}\n  b: {handler: echo, task: embed}\n"
    catalog = catalog_of(tmp_path, both)
    assert catalog.subset(("b",)).default_for("embed") == "b"


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ("a: {handler: echo, default: true}", "which `task`"),
        (
            "a: {handler: echo, task: embed, default: true}\n"
            "  b: {handler: echo, task: embed, default: true}",
            "mark one",
        ),
        ("a: {handler: echo, task: dance}", "task"),
    ],
)
def test_a_default_that_cannot_be_is_refused_at_start(
    tmp_path: Path, models: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        catalog_of(tmp_path, f"models:\n  {models}\n")


def test_the_checkout_serves_each_task_by_default() -> None:
    catalog = load_catalog(Path("deploy/models.yaml"))
    assert catalog.default_for("embed") == "minilm"
    assert catalog.default_for("classify") == "classify"
    assert catalog.default_for("detect") == "text-detect"


def test_base64_is_little_endian_fp32_and_short_vectors_are_of_unit_length() -> None:
    result = {"embedding": [0.6, 0.0, 0.8], "tokens": 3}
    asked = EmbeddingsRequest(model="m", input="x", encoding_format="base64")
    answer = json.loads(embeddings_json("m", [result], asked))
    numbers = struct.unpack("<3f", base64.b64decode(answer["data"][0]["embedding"]))
    assert numbers == pytest.approx((0.6, 0.0, 0.8))
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    asked = EmbeddingsRequest(model="m", input="x", dimensions=2)
    answer = json.loads(embeddings_json("m", [{"embedding": [3.0, 4.0, 5.0]}], asked))
    assert math.hypot(*answer["data"][0]["embedding"]) == pytest.approx(1.0)
    assert answer["usage"]["total_tokens"] == 0


def test_a_model_that_answers_no_embedding_is_named() -> None:
    with pytest.raises(WrongResult, match="no `embedding`"):
        embeddings_json("m", [{"labels": []}], EmbeddingsRequest(model="m", input="x"))


def test_a_problem_becomes_the_error_that_the_client_knows() -> None:
    headers = {"Retry-After": "7"}
    for problem, status, kind, code in (
        (Problem(422, "invalid_input", "x"), 400, "invalid_request_error", "invalid_input"),
        (Problem(404, "unknown_model", "x"), 404, "invalid_request_error", "model_not_found"),
        (Problem(401, "unauthenticated", "x"), 401, "authentication_error", "unauthenticated"),
        (Problem(429, "lane_full", "x", headers=headers), 429, "rate_limit_error", "lane_full"),
        (Problem(503, "queue_unavailable", "x"), 503, "server_error", "queue_unavailable"),
    ):
        response = error_response(problem)
        error = json.loads(bytes(response.body))["error"]
        assert (response.status_code, error["type"], error["code"]) == (status, kind, code)
        assert error["message"] == "x"
        assert response.headers.get("retry-after") == (headers if status == 429 else {}).get(
            "Retry-After"
        )
