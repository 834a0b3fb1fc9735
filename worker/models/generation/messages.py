"""What a job of text generation may have as its input: a prompt, its tokens, or messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import InvalidInput

__all__ = ("Request", "read_request")

_FORMS = 'send a text, {"prompt": a text or token ids} or {"messages": [{"role", "content"}, ...]}'
_MAX_MESSAGES = 10_000


@dataclass(frozen=True, slots=True)
class Request:
    """One of the three is set."""

    prompt: str | None = None
    tokens: list[int] | None = None
    messages: list[dict[str, Any]] | None = None


def read_request(value: Any) -> Request:
    """Raises InvalidInput with what to send."""
    if isinstance(value, str):
        return Request(prompt=_text(value, "the prompt"))
    if not isinstance(value, Mapping):
        raise InvalidInput(f"the input is a {type(value).__name__}; {_FORMS}")
    if len(value) != 1 or not set(value) <= {"prompt", "messages"}:
        raise InvalidInput(f"the input has the keys {sorted(map(str, value))[:5]}; {_FORMS}")
    if "messages" in value:
        return Request(messages=_messages(value["messages"]))
    prompt = value["prompt"]
    if isinstance(prompt, str):
        return Request(prompt=_text(prompt, "the prompt"))
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return Request(tokens=prompt)
    raise InvalidInput(f"`prompt` is neither a text nor a list of token ids; {_FORMS}")


def _messages(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not given:
        raise InvalidInput(f"`messages` is not a list of at least one message; {_FORMS}")
    if len(given) > _MAX_MESSAGES:
        raise InvalidInput(f"{len(given):,} messages are more than the {_MAX_MESSAGES:,} allowed")
    return [_message(number, one) for number, one in enumerate(given)]


def _message(number: int, given: Any) -> dict[str, Any]:
    where = f"messages[{number}]"
    if not isinstance(given, Mapping) or not isinstance(given.get("role"), str):
        raise InvalidInput(f"{where} has no `role` that is a text; {_FORMS}")
    content = given.get("content")
    if content is None and given["role"] == "assistant":
        content = ""  # one that only calls tools
    if isinstance(content, list):
        content = "".join(_part(f"{where}.content", part) for part in content)
    if not isinstance(content, str):
        raise InvalidInput(f"{where}.content is neither a text nor a list of text parts")
    return {**given, "role": given["role"], "content": _text(content, f"{where}.content")}


def _part(where: str, given: Any) -> str:
    if isinstance(given, Mapping) and given.get("type") == "text":
        text = given.get("text")
        if isinstance(text, str):
            return text
    raise InvalidInput(f"{where} has a part that is no text; this model reads text only")


def _text(text: str, where: str) -> str:
    try:
        text.encode()  # the tokenizer calls half a surrogate pair "not a str"
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"{where} is not valid Unicode: {exc.reason}") from exc
    return text
