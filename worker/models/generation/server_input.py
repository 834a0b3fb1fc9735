"""Reads a job's input for a server: a prompt or messages, and nothing else.

What is not named here never reaches the server: no template, no embeddings, no model or adapter,
no priority, and of a message its text alone, because servers fetch the media that messages name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.errors import InvalidInput
from common.generation.options import read_options
from worker.models.generation import messages
from worker.models.remote import Request

_ROLES = ("system", "developer", "user", "assistant")
_FIELDS = {"role", "content"}
_LARGEST_TOKEN = 2**31


def read_request(value: Any, params: Mapping[str, Any]) -> Request:
    """The request of one job; raises InvalidInput with what to send instead."""
    options, found = read_options(params), messages.read_request(value)
    if found.messages is not None:
        sent = tuple(_message(number, one) for number, one in enumerate(found.messages))
        return Request(options, messages=sent)
    if found.tokens is not None:
        if not all(0 <= token < _LARGEST_TOKEN for token in found.tokens):
            raise InvalidInput("`prompt` has numbers that are no token ids")
        return Request(options, prompt=tuple(found.tokens))
    if not found.prompt:
        raise InvalidInput("the prompt is empty; send at least one character")
    return Request(options, prompt=found.prompt)


def _message(number: int, message: Mapping[str, Any]) -> Mapping[str, str]:
    where = f"messages[{number}]"
    if unknown := set(message) - _FIELDS:
        name = min(map(str, unknown))[:80]
        raise InvalidInput(f"{where}.{name}: a message has `role` and `content`, and nothing else")
    if message["role"] not in _ROLES:
        raise InvalidInput(f"{where}.role: must be one of {', '.join(_ROLES)}")
    return {"role": message["role"], "content": message["content"]}
