"""Reads a job's input for a server: a prompt or messages, and nothing else.

What is not named here never reaches the server: no template, no embeddings, no model or adapter,
no priority, and of a message its text alone, because servers fetch the media that messages name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.errors import InvalidInput
from common.generation.options import read_options
from worker.models.remote import Request

_ROLES = ("system", "developer", "user", "assistant")
_MAX_MESSAGES = 2_048
_FORM = (
    'send the prompt as text, {"prompt": text or token ids}, or '
    '{"messages": [{"role": ..., "content": ...}]}'
)


def read_request(value: Any, params: Mapping[str, Any]) -> Request:
    """The request of one job; raises InvalidInput with what to send instead."""
    options = read_options(params)
    if isinstance(value, str):
        return Request(options, prompt=_some(value))
    if not isinstance(value, Mapping):
        raise InvalidInput(f"the input is a {type(value).__name__}; {_FORM}")
    if unknown := set(value) - {"prompt", "messages"}:
        raise InvalidInput(f"input.{min(map(str, unknown))}: there is no such field; {_FORM}")
    if len(value) != 1:
        raise InvalidInput(f"the input has both a prompt and messages, or neither; {_FORM}")
    if "messages" in value:
        return Request(options, messages=_messages(value["messages"]))
    prompt = value["prompt"]
    if isinstance(prompt, str):
        return Request(options, prompt=_some(prompt))
    if isinstance(prompt, list) and prompt and all(map(_is_token, prompt)):
        return Request(options, prompt=tuple(prompt))
    raise InvalidInput(f"input.prompt: is neither text nor a list of token ids; {_FORM}")


def _some(prompt: str) -> str:
    if not prompt:
        raise InvalidInput("the prompt is empty; send at least one character")
    return prompt


def _is_token(token: object) -> bool:
    return type(token) is int and 0 <= token < 2**31


def _messages(found: Any) -> tuple[Mapping[str, str], ...]:
    if not isinstance(found, list) or not 1 <= len(found) <= _MAX_MESSAGES:
        raise InvalidInput(f"input.messages: must be a list of 1 to {_MAX_MESSAGES:,} messages")
    return tuple(_message(f"input.messages.{at}", one) for at, one in enumerate(found))


def _message(where: str, message: Any) -> Mapping[str, str]:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise InvalidInput(f"{where}: must have `role` and `content`, and nothing else")
    role = message["role"]
    if role not in _ROLES:
        raise InvalidInput(f"{where}.role: must be one of {', '.join(_ROLES)}")
    return {"role": role, "content": _text(f"{where}.content", message["content"])}


def _text(where: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidInput(f"{where}: must be text, or a list of parts of type `text`")
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise InvalidInput(
                f"{where}: only parts of type `text` are taken; this fleet lets no model server "
                "fetch or open what a message names"
            )
        if set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise InvalidInput(f"{where}: a part of type `text` has `type` and `text` alone")
    return "".join(part["text"] for part in content)
