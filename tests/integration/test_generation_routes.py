"""Generation over HTTP, by the client, the command line and stock clients, over a whole fleet.

The generator has no model: what a prompt is answered can be worked out here (`text_of`).
"""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from typer.testing import CliRunner

from api.cli import app as command_line
from api.client import ApiError, AsyncClient, Client, Job, Token
from common.generation.options import GenerateOptions
from common.redis.embedded_server import RedisServer
from common.redis.keys import WEIGHTS_DIGESTS
from tests.support.null_generator import text_of
from tests.support.stack import ApiProcess, Stack, wait_until

LANE, NARROW = "words", "narrow"
HANDLER = "tests.support.null_generator:NullGenerator"
CATALOG = f"""
models:
  {LANE}: {{handler: "{HANDLER}", task: generate, default: true}}
  {NARROW}: {{handler: "{HANDLER}", task: generate, options: {{max_positions: 5, step_ms: 20}}}}
"""
SERVED = f"{LANE},{NARROW}"
PROMPT = "a calm river by the road"
CHAT: Any = [{"role": "user", "content": "hello there"}]
CHAT_PROMPT = "user: hello there"
GREEDY: dict[str, Any] = {"temperature": 0}


@pytest.fixture(scope="module")
def stack(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("generation")
    (folder / "models.yaml").write_text(CATALOG)
    environment = {
        "LANEFLEET_CATALOG": str(folder / "models.yaml"),
        "LANEFLEET_FILES_URL": (folder / "files").as_uri(),
        "LANEFLEET_CHAT_MAX_TOKENS": "7",
    }
    made = Stack(embedded_redis.url, folder, environment)
    made.redis.flushall()
    made.worker(SERVED)
    yield made
    made.close()
    made.redis.flushall()


@pytest.fixture(scope="module")
def api(stack: Stack) -> ApiProcess:
    made = stack.api(SERVED)
    wait_until(lambda: stack.redis.hexists(WEIGHTS_DIGESTS, LANE), 20, "the model's digest")
    made.await_samples()
    return made


@pytest.fixture(scope="module")
def client(api: ApiProcess) -> Client:
    return api.client


@pytest.fixture(scope="module")
def stock(api: ApiProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as made:
        yield made


OPTIONS: dict[str, tuple[Any, Any]] = {
    "max_tokens": (3, 0),
    "min_tokens": (1, -1),
    "temperature": (0.5, -1),
    "top_p": (0.5, 1.5),
    "top_k": (5, -1),
    "min_p": (0.1, 2),
    "repetition_penalty": (1.1, 0),
    "presence_penalty": (0.5, 3),
    "frequency_penalty": (-0.5, -3),
    "seed": (7, -1),
    "stop": (["river "], [""]),
    "include_stop": (True, 1),
    "logit_bias": ({"5": -1.5}, {"5": 101}),
    "n": (2, 0),
    "logprobs": (2, 21),
    "echo": (True, "yes"),
    "json_schema": ({"type": "object"}, []),
    "truncate": (True, 1),
    "stream": (False, "no"),
    "on_disconnect": ("continue", "wait"),
    "on_deadline": ("partial", "wait"),
}
"""By option, a value that is taken and one that is not."""


def test_every_option_is_named_here() -> None:
    assert OPTIONS.keys() == GenerateOptions.model_fields.keys()


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_taken_or_refused_by_name(client: Client, option: str) -> None:
    good, bad = OPTIONS[option]
    sent = {"max_length": 4, option: good} if option != "max_tokens" else {option: good}
    assert client.generate(PROMPT, **sent)["usage"]["completion_tokens"] > 0
    with pytest.raises(ApiError, match=f"`{option}") as over_http:
        client.generate(PROMPT, **{option: bad})
    assert over_http.value.status == 422
    with pytest.raises(ApiError, match=f"params.{option}"):
        client.submit(LANE, PROMPT, params={option: bad})


def test_a_text_and_its_stream_are_equal(client: Client) -> None:
    for options in (GREEDY, {"seed": 5}, {"seed": 5, "stop": ["e ", "s w"]}, {"n": 3, "seed": 9}):
        sent = {"max_length": 60, "cache": False, **options}
        whole = client.generate(PROMPT, **sent)
        texts = [one["text"] for one in whole.get("choices", [])] or [whole["generated_text"]]
        tokens = list(client.generate_stream(PROMPT, **sent))
        for choice, text in enumerate(texts):
            said = [one for one in tokens if one.choice == choice]
            assert "".join(one.text for one in said) == text
            assert [one.finish_reason for one in said if one.finish_reason] == [
                whole.get("choices", [whole])[choice]["finish_reason"]
            ]
    assert client.generate(PROMPT, max_length=9, **GREEDY)["generated_text"] == text_of(PROMPT, 9)


def test_emoji_come_whole(client: Client) -> None:
    said = list(client.generate_stream(PROMPT, max_length=300, seed=3, cache=False))
    assert any("🙂" in one.text for one in said)
    assert any("漢字" in one.text for one in said)
    assert all("\N{REPLACEMENT CHARACTER}" not in one.text for one in said)


def test_the_same_generation_is_kept_and_replayed_as_one_event(client: Client) -> None:
    sent = {"max_length": 12, "seed": 4711}
    first = client.generate(PROMPT, **sent)
    assert "cached" not in first

    def kept() -> Any:
        return client.generate(PROMPT, top_p=0.9, **sent).get("cached")

    assert wait_until(kept, 20, "the result in the cache")
    (token,) = client.generate_stream(PROMPT, **sent)
    assert (token.text, token.finish_reason) == (first["generated_text"], "length")
    job = client.submit(LANE, PROMPT, params={"max_tokens": 12, "seed": 4711, "stream": True})
    assert job["cached"]
    assert [one.text for one in client.tokens(job["id"])] == [first["generated_text"]]


def test_identical_streams_share_a_run(client: Client) -> None:
    params = {"max_tokens": 40, "seed": 12, "stream": True}
    jobs = [client.submit(NARROW, "a b", params=params) for _ in range(4)]
    texts = {"".join(one.text for one in client.tokens(job["id"])) for job in jobs}
    assert texts == {text_of("a b", 40, seed=12)}
    ended = [client.get(job["id"], wait=10) for job in jobs]
    # One that was submitted after the end of the first is answered from the cache.
    assert sum(bool(job.get("shared") or job.get("cached")) for job in ended) == 3


def test_a_reader_goes_on_at_any_token_of_a_real_stream(client: Client) -> None:
    job = client.submit(LANE, PROMPT, params={"max_tokens": 25, "seed": 8, "n": 2, "stream": True})
    said = list(client.tokens(job["id"]))
    for at in range(0, len(said), 3):
        assert list(client.tokens(job["id"], last_id=said[at].id)) == said[at + 1 :]


def test_the_asynchronous_client_has_the_same(api: ApiProcess) -> None:
    async def use() -> tuple[Any, list[Token], Any]:
        async with AsyncClient(api.url) as client:
            whole = await client.generate(PROMPT, LANE, max_length=5, **GREEDY)
            said = [one async for one in client.generate_stream(PROMPT, max_length=5, **GREEDY)]
            several = await client.batch_generate([{"text": PROMPT, "max_length": 5, **GREEDY}])
            return whole, said, several

    whole, said, several = asyncio.run(use())
    assert whole["generated_text"] == text_of(PROMPT, 5)
    assert "".join(one.text for one in said) == text_of(PROMPT, 5)
    assert several["results"][0]["generated_text"] == text_of(PROMPT, 5)


def test_each_of_several_keeps_its_own_sampling(client: Client) -> None:
    requests = [
        {"text": PROMPT, "max_length": 6, "seed": 1},
        {"text": PROMPT, "max_length": 4, **GREEDY},
        {"text": "one two three four five six", "model": NARROW},
        {"text": PROMPT, "max_length": 6, "seed": 2},
    ]
    answer = client.batch_generate(requests)
    texts = [one.get("generated_text") for one in answer["results"]]
    assert texts == [
        text_of(PROMPT, 6, seed=1), text_of(PROMPT, 4), None, text_of(PROMPT, 6, seed=2),
    ]  # fmt: skip
    assert answer["results"][2]["error"]["reason"] == "prompt_too_long"
    assert answer["processed_count"] == 3


def test_the_command_line(api: ApiProcess) -> None:
    command = ["generate", PROMPT, "--max-length", "5", "--temperature", "0", "--url", api.url]
    runner = CliRunner()
    for more in (["--stream"], ["--no-stream"], ["--model", LANE, "--option", "min_p=0.0"]):
        found = runner.invoke(command_line, command + more)
        assert (found.exit_code, found.stdout) == (0, text_of(PROMPT, 5) + "\n"), found.output
    found = runner.invoke(command_line, [*command, "--no-stream", "--json"])
    assert json.loads(found.stdout)["generated_text"] == text_of(PROMPT, 5)
    lines = runner.invoke(command_line, [*command, "--json"]).stdout.splitlines()
    assert "".join(json.loads(one)["text"] for one in lines) == text_of(PROMPT, 5)


# OpenAI's stock client.


def test_the_stock_client_completes_a_prompt(stock: openai.OpenAI) -> None:
    made = stock.completions.create(
        model=LANE, prompt=PROMPT, max_tokens=6, temperature=0, logprobs=2, n=2, echo=True
    )
    assert made.choices[0].text == f"{PROMPT} {text_of(PROMPT, 6)}"
    assert made.choices[1].index == 1
    assert made.choices[0].logprobs is not None
    assert len(made.choices[0].logprobs.tokens or []) == 6
    assert made.usage is not None
    assert made.usage.completion_tokens == 12
    several = stock.completions.create(
        model=LANE, prompt=[PROMPT, "other"], max_tokens=3, temperature=0
    )
    assert [one.text for one in several.choices] == [text_of(PROMPT, 3), text_of("other", 3)]


def test_the_stock_client_streams_a_completion(stock: openai.OpenAI) -> None:
    chunks = list(
        stock.completions.create(
            model=LANE, prompt=PROMPT, max_tokens=9, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    said = [one.choices[0].text for one in chunks if one.choices]
    assert "".join(said) == text_of(PROMPT, 9)
    assert [one.choices[0].finish_reason for one in chunks if one.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 9


def test_the_stock_client_chats(stock: openai.OpenAI) -> None:
    made = stock.chat.completions.create(
        model=LANE, messages=CHAT, temperature=0, logprobs=True, top_logprobs=1
    )
    assert made.choices[0].message.content == text_of(CHAT_PROMPT, 7)
    assert made.choices[0].finish_reason == "length"
    assert made.choices[0].logprobs is not None
    assert len(made.choices[0].logprobs.content or []) == 7
    stream = stock.chat.completions.create(
        model=LANE, messages=CHAT, seed=3, max_completion_tokens=5, n=2, stream=True, stop="zzz"
    )
    texts = {0: "", 1: ""}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {n: text_of(CHAT_PROMPT, 5, seed=3, choice=n) for n in (0, 1)}


def test_the_stock_asynchronous_client(api: ApiProcess) -> None:
    async def use() -> str:
        async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none") as stock:
            stream = await stock.chat.completions.create(
                model=LANE, messages=CHAT, temperature=0, max_tokens=4, stream=True
            )
            return "".join([one.choices[0].delta.content or "" async for one in stream])

    assert asyncio.run(use()) == text_of(CHAT_PROMPT, 4)


@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_in_openais_envelope(stock: openai.OpenAI, stream: bool) -> None:
    long: Any = [{"role": "user", "content": "one two three four five"}]
    with pytest.raises(openai.BadRequestError) as caught:
        stock.chat.completions.create(model=NARROW, messages=long, stream=stream)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    with pytest.raises(openai.NotFoundError) as unknown:
        stock.chat.completions.create(model="nobody", messages=CHAT, stream=stream)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="no such option") as wrong:
        stock.chat.completions.create(
            model=LANE,
            messages=CHAT,
            stream=stream,
            tools=[{"type": "function"}],  # type: ignore[list-item]
        )
    assert wrong.value.param == "tools"


def test_the_models_that_generate_are_listed(stock: openai.OpenAI) -> None:
    assert {one.id for one in stock.models.list()} == {LANE, NARROW}


def await_batch(stock: openai.OpenAI, batch_id: str) -> Any:
    def completed() -> Any:
        batch = stock.batches.retrieve(batch_id)
        return batch if batch.status == "completed" else None

    return wait_until(completed, 60, "the batch")


def body_of(stock: openai.OpenAI, file_id: str) -> Any:
    return json.loads(stock.files.content(file_id).text)["response"]["body"]


def test_batches_of_completions_and_chats(stack: Stack, stock: openai.OpenAI) -> None:
    stack.courier(SERVED)
    bodies: dict[Any, list[dict[str, Any]]] = {
        "/v1/completions": [
            {"model": LANE, "prompt": PROMPT, "max_tokens": 5, "temperature": 0},
            {"model": LANE, "prompt": PROMPT, "stream": True},
        ],
        "/v1/chat/completions": [
            {"model": LANE, "messages": CHAT, "max_tokens": 5, "temperature": 0},
            {"model": NARROW, "messages": [{"role": "user", "content": "a b c d e f"}]},
        ],
    }
    batches = {}
    for endpoint, sent in bodies.items():
        lines = [
            {"custom_id": f"r{at}", "method": "POST", "url": endpoint, "body": body}
            for at, body in enumerate(sent)
        ]
        content = "".join(json.dumps(one) + "\n" for one in lines).encode()
        file = stock.files.create(file=("in.jsonl", io.BytesIO(content)), purpose="batch")
        batches[endpoint] = stock.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h"
        ).id
    for endpoint, batch_id in batches.items():
        done = await_batch(stock, batch_id)
        assert (done.request_counts.completed, done.request_counts.failed) == (1, 1)
        answer = json.loads(stock.files.content(done.output_file_id).text)["response"]["body"]
        error = json.loads(stock.files.content(done.error_file_id).text)["response"]["body"][
            "error"
        ]
        if endpoint == "/v1/completions":
            assert answer["choices"][0]["text"] == text_of(PROMPT, 5)
            assert "`stream`" in error["message"]
        else:
            assert answer["choices"][0]["message"]["content"] == text_of(CHAT_PROMPT, 5)
            assert error["code"] == "context_length_exceeded"


def test_curl_reads_events_line_by_line(api: ApiProcess) -> None:
    body = {"text": PROMPT, "max_length": 3, "stream": True, **GREEDY}
    text = httpx.post(f"{api.url}/v1/generate", json=body, timeout=30).text
    kinds = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
    assert kinds[:2] == ["queued", "running"]
    assert kinds[-1] == "succeeded"
    assert set(kinds[2:-1]) == {"token"}


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/models"])
def test_a_client_of_http_1_0_gets_no_chunks(api: ApiProcess, path: str) -> None:
    address = urlsplit(api.url)
    body = json.dumps({"text": PROMPT, "max_length": 3, "stream": True, **GREEDY}).encode()
    head = f"GET {path} HTTP/1.0\r\nHost: {address.netloc}\r\n\r\n".encode()
    if path == "/v1/generate":
        about = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
        head = f"POST {path} HTTP/1.0\r\nHost: {address.netloc}\r\n{about}\r\n\r\n".encode() + body
    with socket.create_connection((address.hostname, address.port), 20) as connection:
        connection.sendall(head)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    fields, _, content = answer.partition(b"\r\n\r\n")
    assert fields.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding" not in fields.lower()
    if path == "/v1/models":
        json.loads(content)
    else:
        assert content.startswith(b"retry: 1000\n\nevent: queued\n")
        assert b"\n\nevent: token\n" in content
        assert content.endswith(b"}\n\n")


def test_a_repeated_stream_is_the_same_job(api: ApiProcess) -> None:
    body = {"text": PROMPT, "max_length": 5, "stream": True}
    headers = {"Idempotency-Key": "text-1"}
    first, second = (
        httpx.post(f"{api.url}/v1/generate", json=body, headers=headers, timeout=30)
        for _ in range(2)
    )
    assert second.headers["location"] == first.headers["location"]
    assert second.headers["idempotent-replayed"] == "true"
    tokens = [
        [line for line in one.text.splitlines() if '"choice"' in line] for one in (first, second)
    ]
    assert tokens[0] == tokens[1]


def test_a_job_is_canceled_within_a_stream(client: Client) -> None:
    job: Job = client.submit(NARROW, "a", params={"max_tokens": 4000, "stream": True})
    heard = client.tokens(job["id"], on_disconnect="cancel")
    next(heard)
    heard.close()  # type: ignore[attr-defined]  # a generator
    assert wait_until(lambda: client.get(job["id"])["state"] == "canceled", 20, "the end")
