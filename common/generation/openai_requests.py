"""Reads OpenAI's completions and chat completions as prompts and options. Pure.

Both sides of the fleet use it: the API for its routes, the courier for the lines of batches. A
field that is not known is refused by name: a program that asks for something must not get something
else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import InvalidInput
from common.generation.options import GenerateOptions, InvalidOption, read_options

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
ENDPOINTS = (COMPLETIONS, CHAT)
COMPLETION_TOKENS = 16
"""OpenAI's own default of `max_tokens` in a completion."""

_SAME = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "min_tokens", "repetition_penalty"),
        *("presence_penalty", "frequency_penalty", "seed", "n", "logit_bias", "include_stop"),
        *("truncate", "json_schema", "on_disconnect", "on_deadline"),
    }
)
"""Options that have one name in OpenAI's bodies and in a job's params; the last three lines of them
are ours."""
_IGNORED = frozenset({"user", "safety_identifier", "prompt_cache_key"})
"""What says nothing of the text."""
_COMMON = frozenset({"model", "stream", "stream_options", "stop", "max_tokens", "logprobs"})
_OWN: Mapping[str, frozenset[str]] = {
    COMPLETIONS: frozenset({"prompt", "echo", "best_of", "suffix"}),
    CHAT: frozenset({"messages", "max_completion_tokens", "top_logprobs", "response_format"}),
}


class WrongField(InvalidInput):
    """A field of the body, named by `param`, is not as it must be."""

    code = "invalid_request"

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(f"`{param}`: {problem}")
        self.param, self.problem = param, problem

    def __reduce__(self) -> tuple[Any, ...]:
        return WrongField, (self.param, self.problem)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a body asks for: an input for each prompt, and the params of all."""

    model: str
    inputs: list[Any]
    params: dict[str, Any]
    options: GenerateOptions
    include_usage: bool = False
    """Whether a stream ends with the usage."""


def read_request(endpoint: str, body: Mapping[str, Any], chat_max_tokens: int) -> Asked:
    """What this body of the endpoint asks for; raises WrongField."""
    sent = {name: value for name, value in body.items() if value is not None}
    _check_names(endpoint, sent)
    model = sent.get("model")
    if not isinstance(model, str):
        raise WrongField("model", "send the name of a model from /v1/models")
    names = {"stop": "stop", "stream": "stream"}
    params: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}
    params |= {name: value for name, value in sent.items() if name in _SAME or name in names}
    if isinstance(params.get("stop"), str):
        params["stop"] = [params["stop"]]
    if endpoint == CHAT:
        inputs = [{"messages": _messages(sent)}]
        names |= _chat_params(sent, params, chat_max_tokens)
    else:
        inputs = _prompts(sent.get("prompt"))
        names |= _completion_params(sent, params)
    try:
        options = read_options(params)
    except InvalidOption as exc:
        first, _, rest = exc.option.partition(".")
        name = names.get(first, first)
        raise WrongField(f"{name}.{rest}" if rest else name, exc.problem) from exc
    usage = _includes_usage(sent)
    if options.stream and len(inputs) > 1:
        raise WrongField("stream", "a stream has one prompt; send several requests")
    return Asked(model, inputs, params, options, usage)


def _check_names(endpoint: str, sent: Mapping[str, Any]) -> None:
    known = _SAME | _IGNORED | _COMMON | _OWN[endpoint]
    for name, value in sent.items():
        if name in known or (name == "store" and value is False):
            continue
        if name == "service_tier" and value in ("auto", "default"):
            continue
        listed = ", ".join(sorted(known - _IGNORED))
        raise WrongField(str(name)[:80], f"there is no such option here; there are {listed}")


def _messages(sent: Mapping[str, Any]) -> list[Any]:
    """The messages as they are: only the model's own template knows what may be in them."""
    messages = sent.get("messages")
    if not isinstance(messages, list) or not messages:
        raise WrongField("messages", 'send a list such as [{"role": "user", "content": "Hello"}]')
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise WrongField(f"messages[{index}]", "send an object with a `role`")
    return messages


def _chat_params(
    sent: Mapping[str, Any], params: dict[str, Any], chat_max_tokens: int
) -> dict[str, str]:
    """Set the params of a chat; returns how fields are called that an error may name."""
    given = [name for name in ("max_completion_tokens", "max_tokens") if name in sent]
    if len(given) > 1:
        raise WrongField("max_tokens", "send `max_completion_tokens` alone")
    params["max_tokens"] = sent[given[0]] if given else chat_max_tokens
    wanted = sent.get("logprobs", False)
    if not isinstance(wanted, bool):
        raise WrongField("logprobs", "send true or false, and how many as `top_logprobs`")
    if wanted:
        params["logprobs"] = sent.get("top_logprobs", 0)
    elif "top_logprobs" in sent:
        raise WrongField("top_logprobs", "it needs `logprobs`: true")
    schema = _schema(sent.get("response_format"))
    if schema is not None:
        if "json_schema" in sent:
            raise WrongField("json_schema", "`response_format` has one already")
        params["json_schema"] = schema
    names = {"logprobs": "top_logprobs", "max_tokens": given[0] if given else "max_tokens"}
    if schema is not None:
        names["json_schema"] = "response_format"
    return names


def _schema(asked: Any) -> Any:
    """The JSON schema of a `response_format`; None for plain text."""
    if asked is None:
        return None
    kind = asked.get("type") if isinstance(asked, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema":
        held = asked.get("json_schema")
        schema = held.get("schema") if isinstance(held, dict) else None
        if isinstance(schema, dict):
            return schema
        raise WrongField("response_format", "send the schema as `json_schema`: {`schema`: ...}")
    raise WrongField("response_format", "its `type` is text, json_object or json_schema")


def _prompts(prompt: Any) -> list[Any]:
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if _is_tokens(prompt):
            return [{"prompt": prompt}]
        if all(isinstance(one, str) for one in prompt):
            return prompt
        if all(_is_tokens(one) for one in prompt):
            return [{"prompt": one} for one in prompt]
    raise WrongField("prompt", "send a text, a list of token ids, or a list of either")


def _is_tokens(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(one, int) and not isinstance(one, bool) for one in value)


def _completion_params(sent: Mapping[str, Any], params: dict[str, Any]) -> dict[str, str]:
    if "suffix" in sent:
        raise WrongField("suffix", "text is only added at the end; leave it out")
    if sent.get("best_of", sent.get("n", 1)) != sent.get("n", 1):
        raise WrongField("best_of", "every answer is returned; send `n`")
    params["max_tokens"] = sent.get("max_tokens", COMPLETION_TOKENS)
    for name in ("logprobs", "echo"):
        if name in sent:
            params[name] = sent[name]
    return {}


def _includes_usage(sent: Mapping[str, Any]) -> bool:
    options = sent.get("stream_options")
    if options is None:
        return False
    if sent.get("stream") is not True:
        raise WrongField("stream_options", "it needs `stream`: true")
    if not isinstance(options, dict):
        raise WrongField("stream_options", 'send an object such as {"include_usage": true}')
    for name, value in options.items():
        known = name in ("include_usage", "include_obfuscation") and isinstance(value, bool)
        if not known or (name == "include_obfuscation" and value):
            raise WrongField(f"stream_options.{name}", "there is `include_usage`, true or false")
    return options.get("include_usage") is True
