"""What OpenAI's completions take and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from api.inference.generation_views import ONE_STOP, Usage, json_body
from common.generation.options import GenerateOptions

_LEFT_OUT = frozenset({"max_tokens", "logprobs", "echo", "stop", "stream"})


class CompletionChoice(BaseModel):
    """One answer."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class CompletionAnswer(BaseModel):
    """The answers to the prompts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class ChatMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatMessage
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class ChatAnswer(BaseModel):
    """The answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


def completion_body() -> dict[str, Any]:
    """The body of `/v1/completions`."""
    tokens = {"type": "array", "items": {"type": "integer"}}
    texts = {"type": "array", "items": {"anyOf": [{"type": "string"}, tokens]}}
    own = {
        "prompt": {"anyOf": [{"type": "string"}, tokens, texts]},
        "max_tokens": {"type": "integer", "minimum": 1, "default": 16},
        "logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
        "echo": {"type": "boolean", "default": False},
    }
    value = {"model": "smollm2", "prompt": "The river runs", "max_tokens": 20}
    return _body("CompletionRequest", "prompt", own, value)


def chat_body() -> dict[str, Any]:
    """The body of `/v1/chat/completions`."""
    own = {
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role"],
                "properties": {"role": {"type": "string"}, "content": {}},
            },
        },
        "max_completion_tokens": {"type": "integer", "minimum": 1},
        "max_tokens": {"type": "integer", "minimum": 1, "description": "The same."},
        "logprobs": {"type": "boolean", "default": False},
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
        "response_format": {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}},
        },
    }
    message = {"role": "user", "content": "What is the capital of France?"}
    return _body("ChatRequest", "messages", own, {"model": "smollm2", "messages": [message]})


def _body(title: str, prompt: str, own: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    options = GenerateOptions.model_json_schema()["properties"]
    shared = {name: about for name, about in options.items() if name not in _LEFT_OUT}
    for name in ("temperature", "top_p"):
        shared[name] = {**shared[name], "default": 1.0}
    texts = {"type": "array", "items": ONE_STOP, "maxItems": 16}
    usage = {"type": "object", "properties": {"include_usage": {"type": "boolean"}}}
    schema = {
        "type": "object",
        "title": title,
        "required": ["model", prompt],
        "properties": {
            "model": {"type": "string", "description": "A name whose `task` is generate."},
            **own,
            "stop": {"anyOf": [ONE_STOP, texts]},
            "stream": {"type": "boolean", "default": False},
            "stream_options": usage,
            **shared,
            "user": {"type": "string", "description": "Ignored."},
        },
    }
    return json_body(schema, {"one": {"summary": "One answer", "value": value}})
