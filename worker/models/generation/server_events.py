"""Reads the events that a server streams: bytes to lines, lines to what each choice was given.

Pure: bytes are fed, deltas come out. What a server sends is not trusted: its lines have a limit,
and a value of another type than expected counts as missing, or ends the answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple, TypeGuard

import orjson

from common.errors import ServerFailed
from worker.models.generator import Finish
from worker.models.remote import Delta

_FINISH: Mapping[str, Finish] = {"length": "length"}
"""All else that ends a choice well is a stop: an end-of-text token, a stop string, a filter."""
_BROKEN = ("abort", "error")
_MAX_SAID = 500
_LARGEST_TOKEN = 2**31
_LARGEST_USAGE = 2**53
"""More than this is no count, and numbers of any length cannot be written as JSON."""


class Event(NamedTuple):
    """One event of a stream."""

    deltas: tuple[Delta, ...] = ()
    usage: tuple[int, int] | None = None
    """Tokens of the prompt and of all choices."""
    prompt_tokens: int | None = None
    """Of the prompt, where the first event tells them."""
    done: bool = False


class Lines:
    """Cuts a stream of bytes into lines."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that these bytes end. Raises ServerFailed where a line is too long."""
        first, *others = chunk.split(b"\n")
        self._rest += first
        if not others:
            if len(self._rest) > self._most_bytes:
                raise self._too_long()
            return []
        lines = [self._rest, *others[:-1]]
        self._rest = others[-1]
        if max(map(len, (*lines, self._rest))) > self._most_bytes:
            raise self._too_long()
        return [line.rstrip(b"\r") for line in lines]

    def _too_long(self) -> ServerFailed:
        return ServerFailed(
            f"the server sent an event of more than {self._most_bytes:,} bytes "
            "(options.max_line_bytes)"
        )


class Characters:
    """Joins the halves of a character that a server sends in two events, as JSON can."""

    def __init__(self) -> None:
        self._half = ""

    def feed(self, text: str, *, last: bool) -> str:
        """The whole characters of what was held back and this; all of them at the last."""
        text, self._half = self._half + text, ""
        if not last and text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        if text.isascii():
            return text
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def read_event(line: bytes, choices: int, secret: str = "") -> Event | None:
    """The event of one line; None of one that has none, such as a comment.

    secret: our key, which no error may name.

    Raises ServerFailed for an error that the server reports so, and for what is no event.
    """
    if not line.startswith(b"data:"):
        return None
    data = line[5:].strip()
    if data == b"[DONE]":
        return Event(done=True)
    found = _parse(data)
    if not isinstance(found, dict):
        raise ServerFailed("the server sent an event that is no object")
    if found.get("error"):
        raise ServerFailed(f"the server said amid its answer: {message_of(found, secret)}")
    rows = found.get("choices")
    rows = [one for one in rows if isinstance(one, dict)] if isinstance(rows, list) else []
    prompt = next((len(its) for one in rows if (its := _tokens(one.get("prompt_token_ids")))), None)
    return Event(tuple(_deltas(rows, choices)), _usage(found.get("usage")), prompt)


def _parse(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:
        pass  # it is strict; half a character as an escape is JSON too
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as exc:
        raise ServerFailed("the server sent an event that is no JSON") from exc


def _deltas(found: list[dict[str, Any]], choices: int) -> Iterator[Delta]:
    for one in found:
        index = one.get("index", 0)
        if type(index) is not int or not 0 <= index < choices:
            raise ServerFailed(f"the server answered for choice {str(index)[:20]!r}")
        ended = one.get("finish_reason")
        if ended in _BROKEN:
            raise ServerFailed(f"the server broke its answer off ({ended})")
        finish: Finish | None = _FINISH.get(ended, "stop") if isinstance(ended, str) else None
        said = one.get("delta")
        text = said.get("content") if isinstance(said, dict) else one.get("text")
        tokens = _tokens(one.get("token_ids"))
        logprobs = tuple(_logprobs(one.get("logprobs"), tokens))
        yield Delta(index, text if isinstance(text, str) else "", tokens, logprobs, finish)


def _tokens(found: Any) -> tuple[int, ...]:
    whole = isinstance(found, list) and all(_is_count(one, _LARGEST_TOKEN) for one in found)
    return tuple(found) if whole else ()


def _is_count(found: Any, limit: int) -> TypeGuard[int]:
    return type(found) is int and 0 <= found < limit


def _usage(found: Any) -> tuple[int, int] | None:
    if not isinstance(found, dict):
        return None
    prompt, completion = found.get("prompt_tokens"), found.get("completion_tokens")
    if not _is_count(prompt, _LARGEST_USAGE):
        return None
    return prompt, completion if _is_count(completion, _LARGEST_USAGE) else 0


def _logprobs(found: Any, tokens: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Ours, from either form: a list of objects with chats, parallel lists with prompts."""
    if not isinstance(found, dict):
        return
    content = found.get("content")
    rows = _of_chat(content) if isinstance(content, list) else _of_prompt(found)
    for at, (token, logprob, top) in enumerate(rows):
        yield {
            "token": _whole(token),
            "id": tokens[at] if at < len(tokens) else None,
            "logprob": logprob,
            "top": [{"token": _whole(one), "id": None, "logprob": its} for one, its in top],
        }


def _whole(token: str) -> str:
    return token if token.isascii() else token.encode("utf-8", "replace").decode()


_Row = tuple[str, float | None, list[tuple[str, float]]]


def _of_chat(content: list[Any]) -> Iterator[_Row]:
    for one in content:
        if isinstance(one, dict):
            top = one.get("top_logprobs")
            pairs = [
                (other.get("token"), other.get("logprob"))
                for other in (top if isinstance(top, list) else ())
                if isinstance(other, dict)
            ]
            yield str(one.get("token", "")), _number(one.get("logprob")), _numbered(pairs)


def _of_prompt(found: dict[str, Any]) -> Iterator[_Row]:
    names, values = found.get("tokens"), found.get("token_logprobs")
    tops = found.get("top_logprobs")
    if not isinstance(names, list) or not isinstance(values, list):
        return
    tops = tops if isinstance(tops, list) else []
    for at, (name, value) in enumerate(zip(names, values, strict=False)):
        top = tops[at] if at < len(tops) else None
        pairs = list(top.items()) if isinstance(top, dict) else []
        yield str(name), _number(value), _numbered(pairs)


def _numbered(pairs: list[tuple[Any, Any]]) -> list[tuple[str, float]]:
    known = [(str(name), number) for name, its in pairs if (number := _number(its)) is not None]
    return sorted(known, key=lambda one: -one[1])


def _number(found: Any) -> float | None:
    try:
        return float(found) if type(found) in (int, float) and isfinite(found) else None
    except OverflowError:  # an integer of any length
        return None


def message_of(found: Any, secret: str = "") -> str:
    """What a server says of an error: one line, bounded, of printable characters.

    secret: our key, which servers like to repeat where they refuse it.
    """
    if isinstance(found, dict):
        error = found.get("error", found)
        inner = error.get("message") if isinstance(error, dict) else error
        found = inner or found.get("message") or found.get("detail") or "no reason"
    text = " ".join(str(found).split())
    text = text.replace(secret, "***") if secret else text
    clean = "".join(one if one.isprintable() else "?" for one in text)
    return clean[:_MAX_SAID].encode("utf-8", "replace").decode()
