"""The answers of OpenAI's completions and chat completions, from the results of jobs. Pure.

Every function raises TypeError, KeyError or AttributeError where a result is not that of a
generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from common.generation.openai_requests import CHAT
from common.jobs.record import JobRecord

_FINISHES = {"deadline": "length"}
"""Reasons that OpenAI's clients do not know, as those that come nearest."""


def choices_of(result: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The answers in a generator's result."""
    choices: Sequence[Mapping[str, Any]] | None = result.get("choices")
    return choices or [{"text": result["text"], "finish_reason": result["finish_reason"]}]


def usage_of(results: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The tokens of all these results together."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: sum(int(result["usage"][name]) for result in results) for name in names}


@dataclass(frozen=True, slots=True)
class Shape:
    """The form of one request's answers."""

    endpoint: str
    job_id: str
    model: str
    created: int
    """Unix seconds."""

    @property
    def chat(self) -> bool:
        """Whether answers are messages."""
        return self.endpoint == CHAT

    @property
    def id(self) -> str:
        """The answer's id, which tells the job."""
        return f"{'chatcmpl' if self.chat else 'cmpl'}-{self.job_id}"

    def whole(self, results: Sequence[Mapping[str, Any]]) -> bytes:
        """The answer from the result of each prompt."""
        choices = [
            self._choice(index, choice)
            for index, choice in enumerate(one for result in results for one in choices_of(result))
        ]
        kind = "chat.completion" if self.chat else "text_completion"
        return orjson.dumps({**self._head(kind), "choices": choices, "usage": usage_of(results)})

    def chunk(
        self, choice: int, text: str, finish: str | None, logprobs: Any, usage: bool
    ) -> bytes:
        """What one choice says next, of a stream that ends with its usage or not."""
        held: dict[str, Any] = {"index": choice}
        if self.chat:
            held["delta"] = {"content": text}
        else:
            held["text"] = text
        return self._chunk([self._with_end(held, finish, logprobs)], usage)

    def first_chunk(self, choice: int, usage: bool) -> bytes:
        """Who speaks, before a choice of a chat says anything."""
        delta = {"role": "assistant", "content": ""}
        held = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._chunk([held], usage)

    def usage_chunk(self, result: Mapping[str, Any]) -> bytes:
        """The last chunk of a stream that was to tell its usage."""
        return self._chunk([], True, usage_of([result]))

    def _chunk(self, choices: list[dict[str, Any]], with_usage: bool, usage: Any = None) -> bytes:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        document = {**self._head(kind), "choices": choices}
        if with_usage:
            document["usage"] = usage
        return orjson.dumps(document)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _choice(self, index: int, choice: Mapping[str, Any]) -> dict[str, Any]:
        held: dict[str, Any] = {"index": index}
        if self.chat:
            held["message"] = {"role": "assistant", "content": choice["text"], "refusal": None}
        else:
            held["text"] = choice["text"]
        return self._with_end(held, choice["finish_reason"], choice.get("logprobs"))

    def _with_end(self, held: dict[str, Any], finish: str | None, logprobs: Any) -> dict[str, Any]:
        shaped = None
        if logprobs:
            shaped = chat_logprobs(logprobs) if self.chat else completion_logprobs(logprobs)
        return {**held, "logprobs": shaped, "finish_reason": _FINISHES.get(finish or "", finish)}


def answer_of(endpoint: str, model: str, records: Sequence[JobRecord]) -> bytes:
    """The answer from these jobs, one for each prompt."""
    first = records[0]
    shape = Shape(endpoint, first.id, model, (first.created_ms or first.finished_ms or 0) // 1000)
    return shape.whole([record.value for record in records])


def chat_logprobs(tokens: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Logprobs as chats have them."""
    return {
        "content": [
            {**_chat_token(one), "top_logprobs": [_chat_token(top) for top in one["top"]]}
            for one in tokens
        ],
        "refusal": None,
    }


def _chat_token(one: Mapping[str, Any]) -> dict[str, Any]:
    text = one["token"]
    return {
        "token": text,
        "logprob": one["logprob"],
        "bytes": list(text.encode("utf-8", "replace")),
    }


def completion_logprobs(tokens: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Logprobs as completions have them."""
    offsets, at = [], 0
    for one in tokens:
        offsets.append(at)
        at += len(one["token"])
    return {
        "tokens": [one["token"] for one in tokens],
        "token_logprobs": [one["logprob"] for one in tokens],
        "top_logprobs": [{top["token"]: top["logprob"] for top in one["top"]} for one in tokens],
        "text_offset": offsets,
    }
