"""What is read of a server's stream, and how an answer that was begun goes on."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import AnswerLost, ServerFailed
from common.generation.options import GenerateOptions
from worker.models.generation.server_answer import Telling
from worker.models.generation.server_circuit import Circuit
from worker.models.generation.server_events import (
    Characters,
    Event,
    Lines,
    message_of,
    read_event,
)
from worker.models.remote import Answer, Delta, Request


def line(**found: Any) -> bytes:
    return b"data: " + json.dumps(found).encode()


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_lines_are_the_same_however_the_bytes_arrive(found: list[bytes], size: int) -> None:
    found = [one.replace(b"\n", b" ").rstrip(b"\r") for one in found]
    whole = b"".join(one + b"\r\n" for one in found)
    lines = Lines(1_000)
    cut = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert [one for chunk in cut for one in lines.feed(chunk)] == found


@pytest.mark.parametrize("chunks", [[b"x" * 11], [b"x" * 6] * 2, [b"a\n" + b"x" * 11 + b"\nb"]])
def test_a_line_without_an_end_is_not_kept(chunks: list[bytes]) -> None:
    lines = Lines(10)
    *first, last = chunks
    for chunk in first:
        lines.feed(chunk)
    with pytest.raises(ServerFailed, match="max_line_bytes"):
        lines.feed(last)


@given(st.text(), st.integers(1, 3))
def test_halves_of_characters_are_joined(text: str, size: int) -> None:
    text = text.encode("utf-8", "ignore").decode()
    units = text.encode("utf-16-le")
    halves = [
        units[at : at + 2 * size].decode("utf-16-le", "surrogatepass")
        for at in range(0, len(units), 2 * size)
    ]
    characters = Characters()
    said = [characters.feed(half, last=False) for half in halves]
    said.append(characters.feed("", last=True))
    assert "".join(said) == text
    for one in said:
        one.encode()


def test_a_half_without_the_other_is_replaced() -> None:
    characters = Characters()
    assert characters.feed("a\ud83d", last=False) == "a"
    assert characters.feed("b", last=True) == "\ufffdb"


def test_both_forms_of_an_event_are_read() -> None:
    chat = line(choices=[{"index": 1, "delta": {"content": "hi"}, "finish_reason": "eos_token"}])
    assert read_event(chat, 2) == Event((Delta(1, "hi", finish="stop"),))
    text = line(
        choices=[{"index": 0, "text": "hi", "token_ids": [7], "prompt_token_ids": [1, 2, 3]}],
        usage={"prompt_tokens": 3, "completion_tokens": 1},
    )
    assert read_event(text, 1) == Event((Delta(0, "hi", (7,)),), (3, 1), 3)
    assert read_event(b"data: [DONE]", 1) == Event(done=True)
    assert read_event(b": a comment", 1) is None
    assert read_event(b"", 1) is None


def test_both_forms_of_logprobs_are_read() -> None:
    wanted = {"token": "a", "id": 5, "logprob": -0.5}
    top = [{"token": "a", "id": None, "logprob": -0.5}, {"token": "b", "id": None, "logprob": -2.0}]
    content = {
        "token": "a",
        "logprob": -0.5,
        "top_logprobs": [{"token": "b", "logprob": -2}, {"token": "a", "logprob": -0.5}],
    }
    for logprobs in (
        {"content": [content]},
        {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -2, "a": -0.5}]},
    ):
        event = read_event(line(choices=[{"text": "a", "token_ids": [5], "logprobs": logprobs}]), 1)
        assert event is not None
        assert event.deltas[0].logprobs == ({**wanted, "top": top},)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (b"data: {", "no JSON"),
        (b"data: " + b"[" * 100_000, "no JSON"),
        (b"data: \xff", "no JSON"),
        (b"data: 7", "no object"),
        (line(error={"message": "the engine\nis dead"}), "the engine is dead"),
        (line(choices=[{"index": 3, "text": "x"}]), "choice '3'"),
        (line(choices=[{"index": -1, "text": "x"}]), "choice"),
        (line(choices=[{"text": "", "finish_reason": "abort"}]), "abort"),
    ],
)
def test_what_is_no_event_ends_the_attempt(found: bytes, said: str) -> None:
    with pytest.raises(ServerFailed, match=said):
        read_event(found, 1)


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "index", "text", "delta", "content", "logprobs", "usage"]
                )
                | st.text(),
                inner,
            )
        ),
        max_leaves=20,
    )
)
def test_whatever_a_server_sends_raises_nothing_else(found: Any) -> None:
    for document in (found, {"choices": found}, {"choices": [found]}, {"usage": found}):
        try:
            read_event(b"data: " + json.dumps(document).encode(), 1)
        except ServerFailed:
            continue


HALF = b'"half": "\\ud83d"'
"""With it a line is read by the parser that knows integers of any length."""


@pytest.mark.parametrize(
    "about",
    [
        b'"choices": [{"index": 0, "text": "a", "token_ids": [' + b"9" * 40 + b"]}]",
        b'"choices": [{"index": 0, "text": "a", "token_ids": [-1]}]',
        b'"choices": [{"index": 0, "text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": ['
        + b"9" * 400
        + b"]}}]",
        b'"usage": {"prompt_tokens": ' + b"9" * 40 + b"}",
        b'"usage": {"prompt_tokens": 3, "completion_tokens": -5}',
        b'"choices": [{"index": 0, "text": "a", "finish_reason": {"a": 1}}]',
    ],
)
def test_what_cannot_be_written_counts_as_missing(about: bytes) -> None:
    """One entry that cannot be written took the text of all others of its round along."""
    event = read_event(b"data: {" + HALF + b", " + about + b"}", 1)
    assert event is not None
    orjson.dumps([event.deltas and event.deltas[0]._asdict(), event.usage])
    assert not event.deltas or event.deltas[0].tokens == ()
    assert event.usage is None or min(event.usage) >= 0


def test_an_error_does_not_name_our_key() -> None:
    with pytest.raises(ServerFailed, match=r"bad \*\*\* here"):
        read_event(line(error={"message": "bad k3y here"}), 1, "k3y")
    assert message_of("x" * 499 + "k3y", "k3y") == "x" * 499 + "*"


def test_what_a_server_says_of_an_error_is_one_clean_line() -> None:
    assert message_of({"error": {"message": "a\n\tb\x00 c"}}) == "a b? c"
    assert message_of({"error": "no"}) == "no"
    assert message_of({"object": "error", "message": "old form"}) == "old form"
    assert len(message_of("x" * 10_000)) == 500


# -- answers that were begun --------------------------------------------------


class Told:
    """An answer and what was told of it."""

    def __init__(self, *, streamed: bool = True, messages: bool = True, **options: Any) -> None:
        request = Request(GenerateOptions(**options), prompt=None if messages else "a prompt ")
        if messages:
            request.messages = ({"role": "user", "content": "x"},)
        self.answer = Answer.to(request, streamed=streamed)
        self.deltas: list[Delta] = []

    def attempt(self, engine: Any, *words: str, ended: bool = True) -> str:
        """Hear these words of one attempt; returns what the server was to go on from."""
        telling = Telling(engine, self.answer, self.deltas.append)
        said = telling.begin().text
        for at, word in enumerate(words):
            finish: Any = "stop" if ended and at == len(words) - 1 else None
            telling.take(Event((Delta(0, word, finish=finish),)))
        return said

    @property
    def text(self) -> str:
        return "".join(one.text for one in self.deltas)


def test_a_prompt_goes_on_from_what_was_said() -> None:
    told = Told(messages=False, max_tokens=9)
    told.attempt("openai", "one ", "two ", ended=False)
    assert told.attempt("openai", "three") == "one two "
    assert told.text == told.answer.choices[0].text == "one two three"
    assert told.answer.choices[0].count == 3


def test_messages_go_on_where_the_server_can_do_that() -> None:
    told = Told()
    told.attempt("vllm", "one", " two", ended=False)
    assert told.attempt("vllm", " three") == "one two"
    assert told.text == "one two three"


@pytest.mark.parametrize("engine", ["openai", "vllm"])
def test_a_streamed_answer_that_is_given_again_is_told_once(engine: str) -> None:
    told = Told()  # vllm: its last message may end with no space
    told.attempt(engine, "one ", "two ", ended=False)
    assert told.attempt(engine, "on", "e t", "wo thr", "ee") == ""
    assert told.text == told.answer.choices[0].text == "one two three"
    assert told.answer.choices[0].finish == "stop"


def test_a_second_answer_that_is_another_ends_the_job() -> None:
    told = Told()
    told.attempt("openai", "one ", "two ", ended=False)
    with pytest.raises(AnswerLost):
        told.attempt("openai", "one ", "too ", "far")
    assert told.text == "one two "


def test_a_second_answer_that_is_shorter_ends_the_job() -> None:
    told = Told()
    told.attempt("openai", "one ", "two ", ended=False)
    with pytest.raises(AnswerLost):
        told.attempt("openai", "one ")


def test_an_answer_that_nobody_saw_is_given_anew() -> None:
    told = Told(streamed=False)
    told.attempt("openai", "one ", "two ", ended=False)
    assert told.attempt("openai", "uno ", "dos") == ""
    assert told.answer.choices[0].text == "uno dos"


def test_an_answer_that_had_all_its_tokens_needs_no_second_attempt() -> None:
    told = Told(messages=False, max_tokens=2)
    told.attempt("openai", "one ", "two ", ended=False)
    told.attempt("openai")
    assert told.answer.finished
    assert told.answer.choices[0].finish == "length"


def test_the_prompt_is_echoed_once() -> None:
    told = Told(messages=False, echo=True)
    told.attempt("openai", "one ", ended=False)
    told.attempt("openai", "two")
    assert told.text == "a prompt one two"


@given(st.text(min_size=1, max_size=12), st.data())
def test_an_answer_in_any_pieces_and_attempts_is_told_once(text: str, data: st.DataObject) -> None:
    text = text.encode("utf-8", "ignore").decode()
    told = Told(max_tokens=1000)
    for attempt in range(3):
        cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})
        pieces = [text[a:b] for a, b in pairwise(cuts)]
        if attempt < 2:
            pieces = pieces[: data.draw(st.integers(0, len(pieces)))]
        told.attempt("openai", *pieces, ended=False)
        assert told.text == told.answer.choices[0].text
    assert told.text == text


# -- the circuit --------------------------------------------------------------


def test_requests_that_fail_in_a_row_close_the_circuit_for_a_growing_pause() -> None:
    circuit = Circuit(8)
    for _ in range(3):
        assert circuit.failed(0.0, 0.0) == 0
        assert circuit.room(0.0) == 8
    assert circuit.failed(0.0, 0.0) == 1
    assert circuit.room(0.5) == 0
    assert circuit.room(1.5) == 1, "one job tries"
    assert circuit.failed(2.0, 1.5) == 2
    assert circuit.room(3.5) == 0
    circuit.succeeded()
    assert circuit.room(4.5) == 8
    assert max(circuit.failed(5.0, 5.0) for _ in range(50)) == 30


def test_requests_that_fail_together_are_one_failure() -> None:
    circuit = Circuit(8)
    for _ in range(8):
        circuit.failed(1.0, 0.5)
    assert circuit.room(1.0) == 8


def test_a_server_that_is_back_starts_anew() -> None:
    circuit = Circuit(8)
    for _ in range(8):
        circuit.failed(1.0, 1.0)
    assert circuit.room(1.0) == 0
    circuit.recovered()
    assert circuit.room(1.0) == 8


def test_a_busy_server_gets_none_for_as_long_as_it_says() -> None:
    circuit = Circuit(8)
    circuit.busy(0.0, 5.0)
    assert circuit.room(4.9) == 0
    assert circuit.room(5.1) == 8
    circuit.busy(10.0, 1e9)
    assert circuit.room(71.0) == 8, "not for ever"


def test_a_server_that_begins_to_answer_gets_more_until_the_next_failure() -> None:
    circuit = Circuit(8)
    for now in range(1, 5):
        circuit.failed(float(now), now - 0.5)
    assert circuit.room(4.5) == 0
    assert circuit.room(6.0) == 1
    circuit.answers()
    assert circuit.room(6.0) == 8
    circuit.failed(7.0, 6.5)
    assert circuit.room(7.5) == 0
