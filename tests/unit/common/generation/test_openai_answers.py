"""Results of generators in OpenAI's shapes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from common.generation.openai_answers import Shape, answer_of
from common.generation.openai_requests import CHAT, COMPLETIONS
from common.jobs.record import JobRecord, JobState

USAGE = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
LOGPROBS = [
    {"token": "ä", "id": 1, "logprob": -0.5, "top": [{"token": "ä", "id": 1, "logprob": -0.5}]},
    {"token": "b", "id": 2, "logprob": -1.5, "top": []},
]
ONE = {"text": "äb", "finish_reason": "stop", "usage": USAGE, "seed": 1}
TWO = {**ONE, "choices": [{"text": text, "finish_reason": "length"} for text in ("x", "y")]}


def answer(endpoint: str, *results: Any) -> Any:
    records = [
        JobRecord(f"job-{at}", JobState.SUCCEEDED, "m", created_ms=5_000, result=result)
        for at, result in enumerate(results)
    ]
    return orjson.loads(answer_of(endpoint, "m", records))


def test_a_completion() -> None:
    found = answer(COMPLETIONS, ONE)
    assert (found["id"], found["object"], found["created"]) == ("cmpl-job-0", "text_completion", 5)
    assert found["usage"] == USAGE
    assert found["choices"] == [
        {"index": 0, "text": "äb", "logprobs": None, "finish_reason": "stop"}
    ]


def test_choices_of_all_prompts_are_numbered_through() -> None:
    found = answer(COMPLETIONS, TWO, ONE)
    assert [(one["index"], one["text"]) for one in found["choices"]] == [
        (0, "x"), (1, "y"), (2, "äb"),
    ]  # fmt: skip
    assert found["usage"]["total_tokens"] == 10


def test_a_chat() -> None:
    found = answer(CHAT, ONE)
    assert (found["id"], found["object"]) == ("chatcmpl-job-0", "chat.completion")
    message = {"role": "assistant", "content": "äb", "refusal": None}
    assert found["choices"][0]["message"] == message


def test_a_text_that_a_deadline_cut_has_a_reason_that_clients_know() -> None:
    assert answer(CHAT, {**ONE, "finish_reason": "deadline"})["choices"][0]["finish_reason"] == (
        "length"
    )


def test_logprobs_of_either_shape() -> None:
    said = {**ONE, "choices": [{"text": "äb", "finish_reason": "stop", "logprobs": LOGPROBS}]}
    chat = answer(CHAT, said)["choices"][0]["logprobs"]["content"]
    assert chat[0]["bytes"] == [0xC3, 0xA4]
    assert chat[0]["top_logprobs"][0]["token"] == "ä"
    completion = answer(COMPLETIONS, said)["choices"][0]["logprobs"]
    assert completion == {
        "tokens": ["ä", "b"],
        "token_logprobs": [-0.5, -1.5],
        "top_logprobs": [{"ä": -0.5}, {}],
        "text_offset": [0, 1],
    }


def test_chunks_tell_usage_only_where_asked() -> None:
    shape = Shape(CHAT, "j", "m", 5)
    plain = orjson.loads(shape.chunk(1, "x", None, None, usage=False))
    assert "usage" not in plain
    assert plain["choices"] == [
        {"index": 1, "delta": {"content": "x"}, "logprobs": None, "finish_reason": None}
    ]
    assert orjson.loads(shape.chunk(1, "x", None, None, usage=True))["usage"] is None
    last = orjson.loads(shape.usage_chunk(ONE))
    assert (last["choices"], last["usage"]) == ([], USAGE)


@pytest.mark.parametrize("result", [None, {}, {"text": "x"}, {"embedding": [1]}])
def test_the_result_of_something_else_is_refused(result: Any) -> None:
    with pytest.raises((TypeError, KeyError, AttributeError)):
        answer(CHAT, result)
