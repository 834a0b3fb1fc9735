"""Batches of generations that a faulty or hostile program wrote: each item fails in its place."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from common.redis.embedded_server import RedisServer
from tests.support.null_generator import text_of
from tests.support.stack import ApiProcess, Stack, wait_until

HANDLER = "tests.support.null_generator:NullGenerator"
CATALOG = f"""
models:
  words: {{handler: "{HANDLER}", task: generate, default: true}}
  slow: {{handler: "{HANDLER}", task: generate, options: {{slots: 4, step_ms: 20}}}}
  narrow: {{handler: "{HANDLER}", task: generate, options: {{max_positions: 5}}}}
  echo: {{handler: echo}}
"""
SERVED = "words,slow,narrow,echo"
COMPLETIONS: Any = "/v1/completions"
PROMPT = "a calm river"
DEEP: Any = []
for _ in range(40):
    DEEP = [DEEP]
HOSTILE: list[Any] = [
    7, None, "text", [], {}, DEEP, {"text": DEEP}, {"text": 7}, {"text": None}, {"prompt": PROMPT},
    {"text": PROMPT, "n": 10**6}, {"text": PROMPT, "n": 10**30}, {"text": PROMPT, "seed": 2**70},
    {"text": PROMPT, "max_length": 10**30}, {"text": PROMPT, "max_length": -1},
    {"text": PROMPT, "temperature": 1e300}, {"text": PROMPT, "stop": DEEP},
    {"text": PROMPT, "logit_bias": {"x": 1}}, {"text": PROMPT, "model": "nobody"},
    {"text": PROMPT, "model": "echo"}, {"text": PROMPT, "model": []}, {"text": PROMPT, "model": ""},
    {"text": PROMPT, "stream": True}, {"text": PROMPT, "on_disconnect": "cancel"},
    {"text": "one two three four five six", "model": "narrow"},
    {"text": PROMPT, "response_format": {"type": "json_schema", "json_schema": 7}},
]  # fmt: skip


@pytest.fixture(scope="module")
def stack(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "models.yaml").write_text(CATALOG)
    environment = {
        "LANEFLEET_CATALOG": str(folder / "models.yaml"),
        "LANEFLEET_FILES_URL": (folder / "files").as_uri(),
    }
    made = Stack(embedded_redis.url, folder, environment)
    made.redis.flushall()
    made.worker(SERVED)
    made.courier(SERVED)
    yield made
    made.close()
    made.redis.flushall()


@pytest.fixture(scope="module")
def api(stack: Stack) -> ApiProcess:
    made = stack.api(SERVED)
    made.await_samples()
    return made


@pytest.fixture
def stock(api: ApiProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_each_hostile_request_fails_in_its_place(api: ApiProcess) -> None:
    requests: list[Any] = []
    for number, one in enumerate(HOSTILE):
        requests += [one, {"text": PROMPT, "max_length": 5, "seed": number}]
    body = {"requests": requests}
    answer = httpx.post(f"{api.url}/v1/batch-generate", json=body, timeout=60)
    assert answer.status_code == 200, answer.text[:500]
    results = answer.json()["results"]
    taken = [one for one, at in zip(HOSTILE, results[::2], strict=True) if "error" not in at]
    assert taken == []
    texts = [one.get("generated_text") for one in results[1::2]]
    assert texts == [text_of(PROMPT, 5, seed=number) for number in range(len(HOSTILE))]
    assert answer.json()["processed_count"] == len(HOSTILE)


def _run(stock: openai.OpenAI, content: bytes) -> Any:
    file = stock.files.create(file=("lines.jsonl", io.BytesIO(content)), purpose="batch")
    return stock.batches.create(
        input_file_id=file.id, endpoint=COMPLETIONS, completion_window="24h"
    )


def _line(number: int, body: Any) -> str:
    asked = {"custom_id": f"n{number}", "method": "POST", "url": COMPLETIONS, "body": body}
    return json.dumps(asked)


def test_each_hostile_line_fails_under_its_id(stock: openai.OpenAI) -> None:
    """Lines end as on Windows, and some are blank."""
    lines = []
    for number in range(300):
        body: Any = {"model": "words", "prompt": PROMPT, "max_tokens": 3, "seed": number}
        if number % 3 == 0:
            wrong = HOSTILE[number // 3 % len(HOSTILE)]
            wrong = wrong if isinstance(wrong, dict) else {"prompt": wrong}
            body = {"model": "words", **wrong}
            if "text" in body:
                body["prompt"] = body.pop("text")
            if "max_length" in body:
                body["max_tokens"] = body.pop("max_length")
        lines.append(_line(number, body))
    batch = _run(stock, "\r\n\r\n".join(lines).encode())
    done = wait_until(lambda: _ended(stock, batch.id), 60, "its end")
    assert done.status == "completed", done.errors
    answers = stock.files.content(done.output_file_id).text.splitlines()
    texts = {
        one["custom_id"]: one["response"]["body"]["choices"][0]["text"]
        for one in map(json.loads, answers)
    }
    right = {f"n{n}": text_of(PROMPT, 3, seed=n) for n in range(300) if n % 3}
    assert {name: texts.get(name) for name in right} == right
    assert done.request_counts.total == 300
    errors = stock.files.content(done.error_file_id).text.splitlines()
    assert len(errors) + len(texts) == 300


def _ended(stock: openai.OpenAI, batch: str) -> Any:
    found = stock.batches.retrieve(batch)
    return found if found.status in ("completed", "failed", "expired", "cancelled") else None


def test_a_batch_that_is_canceled_frees_its_rows(stock: openai.OpenAI, stack: Stack) -> None:
    body = {"model": "slow", "prompt": PROMPT, "max_tokens": 100_000, "seed": 1}
    batch = _run(stock, "\n".join(_line(n, body) for n in range(8)).encode())

    def rows() -> int:
        return sum(one.lanes["slow"].rows for one in stack.reports() if "slow" in one.lanes)

    wait_until(lambda: rows() > 0, 30, "rows that are taken")
    stock.batches.cancel(batch.id)
    assert wait_until(lambda: _ended(stock, batch.id), 30, "its end").status == "cancelled"
    wait_until(lambda: rows() == 0, 30, "free rows")
