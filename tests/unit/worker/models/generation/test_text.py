"""Text as it is streamed: whole characters, and stop strings wherever tokens end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.generation.options import GenerateOptions
from worker.models.generation.text import ChoiceText, StopSearch

BYTES = [bytes([byte]) for byte in range(256)] + [b"", b"the ", b"end"]
END, THE = 256, 257


def choice(**options: object) -> ChoiceText:
    return ChoiceText(BYTES, frozenset({END}), GenerateOptions.model_validate(options))


def first_stop(text: str, stops: list[str], keep: bool) -> tuple[str, bool]:
    """By definition: a character at a time."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end if keep else end - max(map(len, ending))], True
    return text, False


LETTERS = st.text("abc", max_size=40)


@given(
    text=LETTERS,
    stops=st.lists(st.text("abc", min_size=1, max_size=5), max_size=3),
    cuts=st.lists(st.integers(0, 40), max_size=8),
    keep=st.booleans(),
)
@example(text="aab", stops=["ab"], cuts=[1, 2], keep=False)
@example(text="abcab", stops=["bcd", "c"], cuts=[2], keep=False)
@example(text="abab", stops=["abc", "abab"], cuts=[1, 3], keep=True)
def test_a_stop_string_is_found_wherever_the_text_is_cut(
    text: str, stops: list[str], cuts: list[int], keep: bool
) -> None:
    search = StopSearch(stops, keep=keep)
    edges = [0, *sorted({min(cut, len(text)) for cut in cuts}), len(text)]
    said, stopped = "", False
    for begin, end in pairwise(edges):
        part, stopped = search.feed(text[begin:end])
        said += part
        if stopped:
            break
    if not stopped:
        said += search.rest()
    assert (said, stopped) == first_stop(text, stops, keep)


@given(text=st.text(max_size=60))
@example(text="👩‍👩‍👧 東京 é")
@example(text="\ufffd")
def test_bytes_of_a_text_come_back_as_whole_characters(text: str) -> None:
    made = choice()
    pieces = [made.feed(byte, None).text for byte in text.encode()]
    assert "".join(pieces) == text
    assert all(piece in text for piece in pieces)


def test_bytes_that_are_no_text_are_replaced_and_what_follows_is_read() -> None:
    made = choice()
    found = [made.feed(byte, None).text for byte in b"a\xff\xe6\x9d\xb1\xe6b"]
    assert "".join(found) == "a\ufffd東\ufffdb"


def test_half_a_character_at_the_end_is_left_out() -> None:
    made = choice()
    made.feed(ord("a"), None)
    assert made.feed(0xE6, "length").text == ""


def test_what_may_be_a_stop_string_waits() -> None:
    made = choice(stop=["end."])
    assert made.feed(THE, None).text == "the "
    assert made.feed(ord("e"), None).text == ""
    assert made.feed(ord("n"), None).text == ""
    assert made.feed(ord("t"), None).text == "ent"
    for letter in b"end":
        assert made.feed(letter, None) == ("", None)
    assert made.feed(ord("."), None) == ("", "stop")


def test_what_waited_is_said_where_the_text_ends_otherwise() -> None:
    made = choice(stop=["end."])
    made.feed(ord("e"), None)
    assert made.feed(ord("n"), "length") == ("en", "length")
    made = choice(stop=["end."])
    made.feed(ord("e"), None)
    assert made.feed(END, "stop") == ("e", "stop")


def test_a_text_that_is_cut_short_says_what_waited() -> None:
    made = choice(stop=["end."])
    made.feed(ord("e"), None)
    made.feed(0xE6, None)
    assert made.flush() == "e"


def test_a_stop_string_is_part_of_the_text_where_asked_for() -> None:
    made = choice(stop=["b"], include_stop=True)
    assert made.feed(ord("a"), None).text == "a"
    assert made.feed(ord("b"), "length") == ("b", "stop")


def test_no_stop_string_ends_a_text_before_min_tokens() -> None:
    made = choice(stop=["a"], min_tokens=2)
    assert [made.feed(ord("a"), None) for _ in range(3)] == [("a", None), ("a", None), ("", "stop")]


def test_the_last_token_counts_as_text_unless_it_is_an_end() -> None:
    made = choice()
    assert made.feed(ord("}"), "stop") == ("}", "stop")


@pytest.mark.parametrize("token", [5_000, END])
def test_tokens_without_text_say_nothing(token: int) -> None:
    assert choice().feed(token, None) == ("", None)
