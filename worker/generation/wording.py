"""Tokens into text and into what a stream's next entry says; no I/O.

What another worker has said is fed again at first, as a text depends on all its tokens, and not
said again.
"""

from __future__ import annotations

from typing import Any

from common.generation.said import Delta
from worker.generation.generation import Generation, Token
from worker.models.generator import Choice, Finish


def open_texts(generation: Generation) -> None:
    """Make the texts of a job that has none yet, up to what was said elsewhere."""
    telling = generation.telling
    if telling.choices:
        return
    prompt, said = generation.prompt, generation.execution.said or {}
    texts = [generation.handler.text(prompt, choice) for choice in range(prompt.options.n)]
    choices = [Choice() for _ in texts]
    for number, before in said.items():
        if number >= len(texts):
            continue
        choice, text, last = choices[number], texts[number], len(before.tokens) - 1
        for position, token in enumerate(before.tokens):
            finish: Finish | None = None
            if position == last and before.finish in ("stop", "length"):
                finish = before.finish  # type: ignore[assignment]  # narrowed by the line above
            choice.text += text.feed(token, finish).text
        choice.tokens, choice.logprobs = list(before.tokens), list(before.logprobs)
        choice.finish = before.finish
    telling.texts, telling.choices = texts, choices


def add_token(generation: Generation, token: Token) -> None:
    """Add a token to its choice, unless that has ended by a stop string."""
    telling, number = generation.telling, token.choice
    choice = telling.choices[number]
    if choice.finish:
        return
    piece = telling.texts[number].feed(token.token, token.finish)
    finish = piece.finish or token.finish or ""
    choice.tokens.append(token.token)
    choice.text += piece.text
    choice.finish = finish
    logprobs = _logprobs_of(generation, token)
    if logprobs is not None:
        choice.logprobs.append(logprobs)
    if finish and token.finish is None:
        telling.stopped.add(number)
    if generation.streams:
        delta = telling.deltas.get(number)
        if delta is None:
            delta = telling.deltas[number] = Delta(number)
        delta.tokens.append(token.token)
        delta.text += piece.text
        delta.finish = finish
        if logprobs is not None:
            delta.logprobs.append(logprobs)


def cut_short(generation: Generation) -> None:
    """End the choices that go on, with what they hold back, by the deadline."""
    telling = generation.telling
    for number, choice in enumerate(telling.choices):
        if choice.finish:
            continue
        flush = getattr(telling.texts[number], "flush", None)
        rest = flush() if flush is not None else ""
        choice.text += rest
        choice.finish = "deadline"
        if generation.streams:
            delta = telling.deltas.setdefault(number, Delta(number))
            delta.text += rest
            delta.finish = "deadline"


def _logprobs_of(generation: Generation, token: Token) -> dict[str, Any] | None:
    if generation.prompt.options.logprobs is None:
        return None
    words = generation.handler.token_text
    return {
        "token": words(token.token),
        "id": token.token,
        "logprob": token.logprob,
        "top": [
            {"token": words(one.token), "id": one.token, "logprob": one.logprob}
            for one in token.top
        ],
    }
