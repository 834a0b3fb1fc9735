"""What a job may ask of a server, and what the catalog may say of one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from common.catalog import ModelSpec
from common.errors import ConfigurationError, InvalidInput
from common.generation.options import GenerateOptions
from worker.models.generation.server_child import OutputLog, environment_of, fill
from worker.models.generation.server_engines import ENGINES, body_of, refuse
from worker.models.generation.server_input import read_request
from worker.models.generation.server_options import (
    EngineName,
    ServerOptions,
    read_key,
    read_server_options,
)
from worker.models.remote import Request, Spoken

MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}


def spec(**options: Any) -> ModelSpec:
    return ModelSpec(name="llm", handler="openai-server", options=options)


def body(engine: EngineName, value: Any = "hi", **params: Any) -> dict[str, Any]:
    request = read_request(value, params)
    refuse(engine, request)
    return body_of(engine, "tiny", request, 4096, Spoken())


# -- inputs -------------------------------------------------------------------


def test_a_prompt_tokens_and_messages_are_read() -> None:
    assert read_request("hi", {}).prompt == "hi"
    assert read_request({"prompt": "hi"}, {}).prompt == "hi"
    assert read_request({"prompt": [1, 2]}, {}).prompt == (1, 2)
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    for content in ("hi", parts):
        request = read_request({"messages": [{"role": "user", "content": content}]}, {})
        assert request.messages == ({"role": "user", "content": "hi"},)


IMAGE = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "the input is a int"),
        ("", "empty"),
        ({}, "the input has the keys"),
        ({"prompt": "x", **MESSAGES}, "the input has the keys"),
        ({"prompt": "x", "model": "other"}, "the keys .*'model'"),
        ({"prompt": "x", "priority": -1}, "the keys .*'priority'"),
        ({"prompt_embeds": "AAAA"}, "the keys .*'prompt_embeds'"),
        ({**MESSAGES, "chat_template": "{{ x }}"}, "the keys .*'chat_template'"),
        ({"prompt": [1, -2]}, "no token ids"),
        ({"prompt": [True]}, "neither a text nor a list"),
        ({"prompt": []}, "neither a text nor a list"),
        ({"prompt": "a\ud83d"}, "not valid Unicode"),
        ({"messages": []}, "not a list of at least one"),
        ({"messages": [{"role": "user"}]}, "content is neither a text nor"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "name: a message has"),
        ({"messages": [{"role": "root", "content": "x"}]}, "role: must be one of"),
        ({"messages": [{"role": "user", "content": 7}]}, "content is neither a text nor"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "a part that is no text"),
    ],
)
def test_other_inputs_are_refused(value: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read_request(value, {})


@pytest.mark.parametrize(
    "name",
    ["chat_template", "prompt_embeds", "logits_processors", "model", "lora", "priority", "user"],
)
def test_other_options_are_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"params.{name}: there is no such option"):
        read_request("hi", {name: "x"})


# -- engines ------------------------------------------------------------------

EVERYTHING: dict[str, Any] = {
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "min_tokens": 3,
    "stop": ["."],
    "include_stop": True,
    "logit_bias": {"5": -1.0},
    "n": 2,
    "logprobs": 2,
    "echo": True,
    "json_schema": {"type": "object"},
    "truncate": True,
    "seed": 7,
}
TAKEN = {
    "vllm": set(EVERYTHING),
    "sglang": set(EVERYTHING) - {"truncate"},
    "llama.cpp": set(EVERYTHING) - {"truncate", "min_tokens", "include_stop", "n"},
    "tgi": {"frequency_penalty", "stop", "echo", "seed"},
    "openai": {
        *("presence_penalty", "frequency_penalty", "stop", "logit_bias", "n", "logprobs", "echo"),
        "seed",
    },
}


@pytest.mark.parametrize("engine", get_args(EngineName))
@pytest.mark.parametrize("option", EVERYTHING)
def test_an_option_is_sent_or_refused(engine: EngineName, option: str) -> None:
    params = {option: EVERYTHING[option]}
    if option not in TAKEN[engine]:
        with pytest.raises(InvalidInput, match=f"params.{option}: .*{engine}.* no such option"):
            body(engine, **params)
        return
    plain, found = body(engine), body(engine, **params)
    if option not in ("echo", "seed"):  # one is ours to do, the other is set with the job's id
        assert plain != found


def test_no_option_was_forgotten() -> None:
    ours = {"max_tokens", "temperature", "top_p", "stream", "on_disconnect", "on_deadline"}
    assert set(GenerateOptions.model_fields) == set(EVERYTHING) | ours


def test_what_a_model_would_set_itself_is_always_sent() -> None:
    assert {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}.items() <= body("vllm").items()
    assert body("sglang")["top_k"] == -1
    assert body("llama.cpp")["repeat_penalty"] == 1.0
    for engine in ENGINES:
        found = body(engine, temperature=0, top_p=1)
        assert found["temperature"] == 0
        assert found["stream"] is True
        assert found["max_tokens"] == 100
    assert "top_p" not in body("tgi", top_p=1)


def test_logprobs_and_schemas_have_the_form_of_the_route() -> None:
    assert body("vllm", logprobs=2)["logprobs"] == 2
    chat = body("vllm", MESSAGES, logprobs=2)
    assert (chat["logprobs"], chat["top_logprobs"]) == (True, 2)
    schema = {"type": "object"}
    named = body("openai", MESSAGES, json_schema=schema)["response_format"]
    assert named["json_schema"]["schema"] == schema
    assert body("llama.cpp", json_schema=schema)["json_schema"] == schema
    assert body("tgi", MESSAGES, json_schema=schema)["response_format"]["value"] == schema


def test_a_continued_request_has_fewer_tokens_left() -> None:
    request = read_request("hi ", {"max_tokens": 10, "min_tokens": 4})
    found = body_of("vllm", "tiny", request, 4096, Spoken("one two", [1, 2], 2))
    assert found["prompt"] == "hi one two"
    assert (found["max_tokens"], found["min_tokens"]) == (8, 2)
    request = read_request({"prompt": [7, 8]}, {})
    assert body_of("vllm", "tiny", request, None, Spoken("x", [1], 1))["prompt"] == [7, 8, 1]
    request = read_request(MESSAGES, {})
    found = body_of("vllm", "tiny", request, None, Spoken("one", [1], 1))
    assert found["messages"][-1] == {"role": "assistant", "content": "one"}
    assert found["continue_final_message"] is True
    assert len(request.messages) == 1


def test_what_only_some_requests_can_have_is_refused_for_the_others() -> None:
    with pytest.raises(InvalidInput, match=r"params\.echo"):
        body("vllm", MESSAGES, echo=True)
    with pytest.raises(InvalidInput, match=r"params\.seed: .* below 2147483648"):
        body("llama.cpp", seed=2**40)
    with pytest.raises(InvalidInput, match="takes no tokens"):
        body("tgi", {"prompt": [1]})
    with pytest.raises(InvalidInput, match="with `messages` only"):
        body("openai", json_schema={"type": "object"})
    with pytest.raises(InvalidInput, match="penalty of another kind"):
        body("tgi", presence_penalty=1)


# -- the catalog --------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "options: set either `command`"),
        ({"command": ["x"], "url": "http://h"}, "set either `command`"),
        ({"command": "vllm serve"}, "options.command"),
        ({"command": []}, "set either"),
        ({"url": "ftp://h"}, "options.url: must be http"),
        ({"url": "http://me:secret@h"}, "must hold no password"),
        ({"url": "http://h?x=1"}, "must end with its path"),
        ({"url": "http://h", "environment": {"A": "b"}}, "`environment` is for a server"),
        ({"command": ["x"], "api_key_file": "/k"}, "`api_key_file` is for a server"),
        ({"url": "http://h", "engine": "other"}, "options.engine"),
        ({"url": "http://h", "slots": 0}, "options.slots"),
        ({"url": "http://h", "slot": 1}, "options.slot: there is no such option"),
    ],
)
def test_what_the_catalog_cannot_say_is_refused_by_field(options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_server_options(spec(**options))


def test_the_catalog_is_read(tmp_path: Any) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    found = read_server_options(spec(url="https://h/x/v1/", api_key_file=str(key)))
    assert found.url == "https://h/x"
    assert read_key(found) == "secret"
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_key(read_server_options(spec(url="http://h", api_key_file="/is/missing")))
    found = read_server_options(spec(command=["x"], environment={"A": 1, "B": True}))
    assert found.environment == {"A": "1", "B": "true"}


def test_a_child_gets_few_of_our_variables() -> None:
    ours = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "1",
        "LANEFLEET_REDIS_URL": "redis://:secret@h",
        "REDIS_URL": "redis://h",
        "CELERY_BROKER_URL": "redis://h",
        "https_proxy": "http://h",
        "HTTP_PROXY": "http://h",
        "AWS_SECRET_ACCESS_KEY": "x",
        "HF_TOKEN": "x",
        "PYTHONPATH": "/ours",
    }
    options = ServerOptions(command=("x",), environment={"A": "{api_key}:{device}"})
    words = {"api_key": "k", "device": "cuda:0"}
    assert environment_of(options, ours, "VLLM_API_KEY", words) == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "1",
        "VLLM_API_KEY": "k",
        "A": "k:cuda:0",
    }


def test_only_the_known_placeholders_are_filled() -> None:
    assert fill('{"a": {port}} {other}', {"port": "7"}) == '{"a": 7} {other}'


def test_the_log_of_a_child_is_bounded_and_without_its_key() -> None:
    now = 0.0
    output = OutputLog("llm", "k3y", lambda: now)
    output.feed(b"the key is k3")
    output.feed(b"y\n" + b"x" * 5_000 + b"\n\x1b[31mred\n")
    assert output.last[0] == "the key is ***"
    assert len(output.last[1]) == 2_000
    assert output.last[2] == "[31mred"
    for number in range(10_000):
        output.feed(f"line {number}\n".encode())
    assert output._unsaid > 9_000
    assert len(output.last) == 8


@pytest.mark.parametrize("begin", range(1_990, 2_004))
def test_a_line_is_cut_beside_the_key_of_a_child_and_not_within_it(begin: int) -> None:
    output = OutputLog("llm", "s3cret-k3y", lambda: 0.0)
    for chunk in (b"x" * begin + b"s3cr", b"et-k3y and more", b" and more\nnext\n"):
        output.feed(chunk)
    said = " ".join(output.last)
    assert "s3cr" not in said
    assert "k3y" not in said
    assert output.last[-1] == "next"
    assert len(output.last) == 2


def test_a_child_that_prints_without_an_end_costs_little() -> None:
    output = OutputLog("llm", "k3y", lambda: 0.0)
    for _ in range(100):
        output.feed(b"y\n" * 30_000)
    assert output.is_full
    assert output._unsaid > 2_900_000
    assert output.last == ["y"] * 8


def test_a_child_that_ends_no_line_is_limited_too() -> None:
    output = OutputLog("llm", "k3y", lambda: 0.0)
    for _ in range(500):
        output.feed(b"y" * 60_000)
    assert output.is_full
    assert output.last == ["y" * 2_000]


def test_a_request_costs_about_its_tokens() -> None:
    from worker.models.generation.server import Server

    request = Request(GenerateOptions(max_tokens=10, n=2), prompt="x" * 40)
    assert Server().cost(request) == 30


def test_the_catalogs_of_the_page_can_be_read() -> None:
    page = (Path(__file__).parents[4] / "docs" / "generation-servers.md").read_text()
    models = {
        name: body
        for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
        for name, body in yaml.safe_load(block)["models"].items()
    }
    engines = {
        read_server_options(ModelSpec(name=name, **body)).engine for name, body in models.items()
    }
    assert engines == set(ENGINES)


def test_the_page_names_every_option() -> None:
    page = (Path(__file__).parents[4] / "docs" / "generation-servers.md").read_text()
    catalog, requests = page.split("## Options of requests")
    named = set(re.findall(r"^\| `(\w+)` \|", catalog, re.MULTILINE))
    assert named == set(ServerOptions.model_fields)
    sent = {name for row in re.findall(r"^\| (`.*?) \|.*\|$", requests, re.MULTILINE)
            for name in re.findall(r"`(\w+)`", row)}  # fmt: skip
    ours = {"stream", "on_disconnect", "on_deadline"}
    assert set(GenerateOptions.model_fields) - sent == ours
