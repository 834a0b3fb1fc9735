"""OpenAI's bodies become prompts and options, and whatever is not known is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from common.generation.openai_requests import CHAT, COMPLETIONS, WrongField, read_request
from common.generation.options import GenerateOptions

MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "x"}]


def completion(**fields: Any) -> Any:
    return read_request(COMPLETIONS, {"model": "m", "prompt": "hi", **fields}, 99)


def chat(**fields: Any) -> Any:
    return read_request(CHAT, {"model": "m", "messages": MESSAGES, **fields}, 99)


def test_the_defaults_are_openais() -> None:
    asked = completion()
    assert asked.inputs == ["hi"]
    assert asked.options == GenerateOptions(max_tokens=16, temperature=1, top_p=1)
    assert chat().options == GenerateOptions(max_tokens=99, temperature=1, top_p=1)
    assert chat().inputs == [{"messages": MESSAGES}]


@pytest.mark.parametrize(
    ("prompt", "inputs"),
    [
        ([1, 2], [{"prompt": [1, 2]}]),
        (["a", "b"], ["a", "b"]),
        ([[1], [2, 3]], [{"prompt": [1]}, {"prompt": [2, 3]}]),
    ],
)
def test_a_prompt_is_a_text_tokens_or_a_list(prompt: Any, inputs: Any) -> None:
    assert completion(prompt=prompt).inputs == inputs


@pytest.mark.parametrize("prompt", [None, [], ["", 1], [[]], {"a": 1}, [True], 7])
def test_another_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(WrongField) as caught:
        completion(prompt=prompt)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("sent", "option", "value"),
    [
        ({"max_tokens": 3}, "max_tokens", 3),
        ({"stop": "x"}, "stop", ("x",)),
        ({"stop": ["x", "y"]}, "stop", ("x", "y")),
        ({"logprobs": 2}, "logprobs", 2),
        ({"echo": True}, "echo", True),
        ({"best_of": 3, "n": 3}, "n", 3),
        ({"min_p": 0.1}, "min_p", 0.1),
        ({"logit_bias": {"5": -100}}, "logit_bias", {"5": -100.0}),
        ({"user": "u", "seed": 5, "temperature": None}, "seed", 5),
        ({"store": False, "service_tier": "auto", "top_k": 4}, "top_k", 4),
    ],
)
def test_an_option_of_completions(sent: Any, option: str, value: Any) -> None:
    assert getattr(completion(**sent).options, option) == value


@pytest.mark.parametrize(
    ("sent", "option", "value"),
    [
        ({"max_completion_tokens": 3}, "max_tokens", 3),
        ({"max_tokens": 3}, "max_tokens", 3),
        ({"logprobs": True}, "logprobs", 0),
        ({"logprobs": True, "top_logprobs": 4}, "logprobs", 4),
        ({"logprobs": False}, "logprobs", None),
        ({"response_format": {"type": "text"}}, "json_schema", None),
        ({"response_format": {"type": "json_object"}}, "json_schema", {"type": "object"}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {}},
                }
            },
            "json_schema",
            {},
        ),
    ],
)
def test_an_option_of_chats(sent: Any, option: str, value: Any) -> None:
    assert getattr(chat(**sent).options, option) == value


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"store": True}, "store"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0]"),
        ({"prompt": "x"}, "prompt"),
        ({"echo": True}, "echo"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"n": 17}, "n"),
        ({"seed": -1}, "seed"),
        ({"stop": [""]}, "stop.0"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": True}}, "stream_options.x"),
        ({"model": 7}, "model"),
    ],
)
def test_a_field_that_is_wrong_is_named(sent: Any, param: str) -> None:
    with pytest.raises(WrongField) as caught:
        chat(**sent)
    assert caught.value.param == param
    assert f"`{param}`" in str(caught.value)


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"prompt": ["a", "b"], "stream": True}, "stream"),
        ({"logprobs": True}, "logprobs"),
        ({"max_completion_tokens": 3}, "max_completion_tokens"),
    ],
)
def test_a_completion_that_is_wrong_is_named(sent: Any, param: str) -> None:
    with pytest.raises(WrongField) as caught:
        completion(**sent)
    assert caught.value.param == param


def test_a_stream_tells_its_usage_where_asked() -> None:
    assert chat(stream=True, stream_options={"include_usage": True}).include_usage
    assert not chat(stream=True, stream_options={"include_usage": False}).include_usage
