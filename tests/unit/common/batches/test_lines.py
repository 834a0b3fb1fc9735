"""The lines of a batch's file: what makes it none, and the jobs that a line asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.batches.answers import answer_line, unfinished_line
from common.batches.lines import LineCheck, LineLimits, LineReader, Request
from common.batches.records import (
    MOVES,
    BatchRecord,
    BatchStatus,
    line_job_id,
    read_record,
    window_seconds,
    words_of,
)
from common.catalog import load_catalog
from common.jobs.record import JobRecord, JobState

LIMITS = LineLimits(inline_input_bytes=1000, params_bytes=100, message_bytes=100_000, inputs=3)
CATALOG = """
models:
  echo: {handler: echo}
  embed: {handler: echo, input: text, task: embed, dimensions: [4, 2]}
  words: {handler: echo, task: generate}
"""


@pytest.fixture
def reader(tmp_path: Path) -> Any:
    (tmp_path / "models.yaml").write_text(CATALOG)
    catalog = load_catalog(tmp_path / "models.yaml")
    return lambda endpoint: LineReader("batch_1", "acme", endpoint, 99, catalog, LIMITS)


def line(body: Any, url: str = "/v1/jobs", **more: Any) -> bytes:
    document = {"custom_id": "a", "method": "POST", "url": url, "body": body, **more}
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"{", "invalid_json_line"),
        (b"[]", "invalid_request_line"),
        (b"{}", "missing_custom_id"),
        (line({}, custom_id=""), "missing_custom_id"),
        (line({}, custom_id=7), "missing_custom_id"),
        (line({}, method="GET"), "invalid_method"),
        (line({}, url="/v1/embeddings"), "mismatched_endpoint"),
        (line("text"), "missing_body"),
        (line({"input": "x" * 300}), "line_too_long"),
    ],
)
def test_a_line_that_is_no_request_is_named(text: bytes, code: str) -> None:
    check = LineCheck("/v1/jobs", max_lines=5, max_line_bytes=200)
    check.take(line({}, custom_id="first"))
    check.take(text)
    assert [(one.code, one.line) for one in check.errors] == [(code, 2)]


def test_errors_are_bounded_and_reading_ends() -> None:
    check = LineCheck("/v1/jobs", max_lines=10_000, max_line_bytes=200)
    for _ in range(150):
        check.take(b"no")
    assert len(check.errors) == 100
    assert check.hopeless


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"input": 1}, "`model`"),
        ({"model": "nobody", "input": 1}, "nobody"),
        ({"model": "echo"}, "`input`"),
        ({"model": "echo", "input": 1, "input_url": "https://a.b/c"}, "either"),
        ({"model": "echo", "input_url": "file:///etc/passwd"}, "input_url"),
        ({"model": "echo", "input": 1, "params": 3}, "`params`"),
        ({"model": "echo", "input": 1, "params": {"x": "y" * 200}}, "`params`"),
        ({"model": "echo", "input": 1, "webhook": "https://a.b"}, "batch.completed"),
        ({"model": "echo", "input": 1, "colour": 1}, "no such field"),
        ({"model": "embed", "input": 1}, "text"),
    ],
)
def test_a_wrong_job_is_told_what_to_send(reader: Any, body: Any, says: str) -> None:
    request = reader("/v1/jobs").read(line(body), 0, 9)
    assert request.jobs == []
    assert says in str(request.error)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"model": "echo", "input": "a"}, "embeddings"),
        ({"model": "embed", "input": []}, "1 to 3"),
        ({"model": "embed", "input": ["a"] * 4}, "1 to 3"),
        ({"model": "embed", "input": 3}, "text"),
        ({"model": "embed", "input": "a", "dimensions": 3}, "4 or 2"),
        ({"model": "embed", "input": "a", "encoding_format": "hex"}, "base64"),
    ],
)
def test_wrong_embeddings_are_told_what_to_send(reader: Any, body: Any, says: str) -> None:
    request = reader("/v1/embeddings").read(line(body), 0, 9)
    assert says in str(request.error)


def test_a_job_of_a_line_always_has_the_same_id_and_the_lowest_band(reader: Any) -> None:
    body = {"model": "embed", "input": ["a", "b"]}
    one, two = (reader("/v1/embeddings").read(line(body), 4, 9) for _ in range(2))
    assert [job.id for job in one.jobs] == [job.id for job in two.jobs]
    assert one.jobs[0].id == line_job_id("batch_1", 4)
    assert len({job.id for job in one.jobs}) == 2
    assert {(job.priority, job.tenant, job.deadline_ms) for job in one.jobs} == {(9, "acme", 99)}


def test_a_shortened_vector_has_unit_length(reader: Any) -> None:
    body = {"model": "embed", "input": "a", "dimensions": 2}
    request = reader("/v1/embeddings").read(line(body), 0, 9)
    result = {"embedding": [3.0, 4.0, 5.0, 6.0], "tokens": 1}
    record = JobRecord("j", JobState.SUCCEEDED, "embed", result=result)
    succeeded, answer = answer_line("batch_1", "/v1/embeddings", request, [record])
    assert succeeded
    vector = json.loads(answer)["response"]["body"]["data"][0]["embedding"]
    assert vector == [0.6, 0.8]


def test_what_is_no_embedding_is_an_error_of_its_line(reader: Any) -> None:
    request = reader("/v1/embeddings").read(line({"model": "embed", "input": "a"}), 0, 9)
    record = JobRecord("j", JobState.SUCCEEDED, "embed", result=[1])
    succeeded, answer = answer_line("batch_1", "/v1/embeddings", request, [record])
    assert not succeeded
    assert json.loads(answer)["response"]["body"]["error"]["code"] == "wrong_result"


def test_an_unfinished_line_says_so_without_a_response() -> None:
    found = json.loads(unfinished_line("batch_1", 3, "a", "24h"))
    assert found["response"] is None
    assert found["error"]["code"] == "batch_expired"


def test_the_error_of_one_input_names_it() -> None:
    request = Request(0, "a", 9, one=False)
    records = [
        JobRecord("1", JobState.SUCCEEDED, "m"),
        JobRecord("2", JobState.FAILED, "m", reason="invalid_input", error="no text"),
    ]
    _, answer = answer_line("batch_1", "/v1/embeddings", request, records)
    response = json.loads(answer)["response"]
    assert response["status_code"] == 400
    assert response["body"]["error"]["message"] == "input[1]: no text"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24h", 86_400), ("90s", 90), ("2d", 172_800), ("0h", None), ("h", None), ("1.5h", None)],
)
def test_windows(text: str, seconds: int | None) -> None:
    assert window_seconds(text) == seconds


def test_a_record_is_read_as_it_was_written() -> None:
    record = BatchRecord(
        *("b", "acme", "/v1/jobs", "file-1", "24h", '{"a": "b"}', BatchStatus.EXPIRED, 5, 6),
        *("file-2", "file-3", 10, 60),
        rate=2.5,
    )
    words = [one.encode() for one in words_of(record)]
    stored = dict(zip(words[::2], words[1::2], strict=True))
    assert read_record(BatchRecord, {**stored, b"of_a_newer_version": b"x"}) == record
    assert read_record(BatchRecord, {}) is None


def test_every_state_has_its_moves() -> None:
    assert set(MOVES) == set(BatchStatus)
    ends = {one for one in BatchStatus if one.ended}
    assert ends == {"completed", "failed", "expired", "cancelled"}


CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
GENERATED = {
    "text": "hello",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}


def test_a_line_of_a_chat_is_one_job_and_of_prompts_several(reader: Any) -> None:
    body = {"model": "words", "messages": MESSAGES, "max_completion_tokens": 5}
    chat = reader(CHAT).read(line(body, CHAT), 0, 9)
    assert [job.input for job in chat.jobs] == [{"messages": MESSAGES}]
    assert chat.jobs[0].params["max_tokens"] == 5
    prompts = {"model": "words", "prompt": ["a", "b"]}
    several = reader(COMPLETIONS).read(line(prompts, COMPLETIONS), 0, 9)
    assert [job.input for job in several.jobs] == ["a", "b"]
    assert len({job.id for job in several.jobs}) == 2


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"stream": True}, "`stream`"),
        ({"on_disconnect": "cancel"}, "`on_disconnect`"),
        ({"tools": []}, "`tools`"),
        ({"temperature": 101}, "`temperature`"),
        ({"model": "echo"}, "generates no text"),
        ({"model": "nobody"}, "no model"),
    ],
)
def test_a_chat_that_is_wrong_is_named(reader: Any, more: Any, named: str) -> None:
    body = {"model": "words", "messages": MESSAGES, **more}
    request = reader(CHAT).read(line(body, CHAT), 0, 9)
    assert request.jobs == []
    assert named in str(request.error)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"input": "a", "params": {"top_q": 1}}, "params.top_q"),
        ({"input": "a", "params": {"stream": True}}, "`stream`"),
        ({"input": 7}, "input"),
    ],
)
def test_a_job_that_generates_is_checked_in_a_line_too(reader: Any, body: Any, named: str) -> None:
    request = reader("/v1/jobs").read(line({"model": "words", **body}), 0, 9)
    assert named in str(request.error)


def test_generations_are_answered_in_the_shape_of_their_route(reader: Any) -> None:
    body = {"model": "words", "messages": MESSAGES}
    request = reader(CHAT).read(line(body, CHAT), 0, 9)
    record = JobRecord(request.jobs[0].id, JobState.SUCCEEDED, "words", result=GENERATED)
    succeeded, text = answer_line("batch_1", CHAT, request, [record])
    answer = json.loads(text)["response"]["body"]
    assert succeeded
    assert answer["choices"][0]["message"]["content"] == "hello"
    long = JobRecord("j", JobState.FAILED, "words", reason="prompt_too_long", error="2 more")
    succeeded, text = answer_line("batch_1", CHAT, request, [long])
    response = json.loads(text)["response"]
    assert not succeeded
    assert (response["status_code"], response["body"]["error"]["code"]) == (
        400, "context_length_exceeded",
    )  # fmt: skip
    other = JobRecord("j", JobState.SUCCEEDED, "words", result={"embedding": [1]})
    _, text = answer_line("batch_1", CHAT, request, [other])
    assert "no `text`" in text.decode()
