"""A reader of a job's text gets it once, wherever it goes on and wherever the text comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.jobs.progress import Progress
from common.generation.said import Delta

Entries = Sequence[list[Delta]]


def entry(*said: tuple[int, str]) -> list[Delta]:
    return [Delta(choice, [7], text) for choice, text in said]


def read(progress: Progress, entries: Entries, first: int = 1) -> list[tuple[int, str, str]]:
    """What the entries from this number on tell: choice, text, and the id's end."""
    return [
        (piece.choice, piece.text, piece.progress)
        for number, one in enumerate(entries, 1)
        if number >= first
        for piece in progress.take(number, one)
    ]


def texts(pieces: Sequence[tuple[int, str, str]]) -> dict[int, str]:
    whole: dict[int, str] = {}
    for choice, text, _ in pieces:
        whole[choice] = whole.get(choice, "") + text
    return whole


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from(["", "a", "漢", "🙂 b", "long words "])),
            min_size=1,
            max_size=4,
            unique_by=lambda one: one[0],
        ),
        min_size=1,
        max_size=12,
    )
)
def test_whoever_goes_on_after_any_piece_gets_the_rest_once(steps: list[Any]) -> None:
    entries = [entry(*step) for step in steps]
    whole = read(Progress(), entries)
    for at, (_, _, end) in enumerate(whole):
        step_id, resumed = Progress.read(f"17-1{end}")
        assert step_id == "17-1"
        rest = read(resumed, entries, resumed.entry + 1)
        told = texts([*whole[: at + 1], *rest])
        assert told == texts(whole)


@given(st.lists(st.sampled_from(["a", "bc", "", "漢字"]), min_size=1, max_size=9), st.data())
def test_another_source_with_the_same_text_goes_on_behind_what_was_sent(
    parts: list[str], data: st.DataObject
) -> None:
    heard = data.draw(st.integers(0, len(parts)))
    whole = "".join(parts)
    progress = Progress()
    before = read(progress, [entry((0, part)) for part in parts[:heard]])
    progress.restart(own=True)
    cut = data.draw(st.integers(0, len(whole)))
    other = [entry((0, whole[:cut])), entry((0, whole[cut:]))]
    after = read(progress, other)
    assert "".join(text for _, text, _ in [*before, *after]) == whole


def test_the_result_tells_what_no_stream_has_told() -> None:
    result = {"text": "one two", "finish_reason": "length"}
    fresh = list(Progress().rest_of(result))
    assert [(one.text, one.finish, one.progress) for one in fresh] == [
        ("one two", "length", ".0.7")
    ]
    _, half = Progress.read("17-1.3.4")
    assert [one.text for one in half.rest_of(result)] == ["two"]
    _, all_of_it = Progress.read("17-1.7.7")
    assert list(all_of_it.rest_of(result)) == []


def test_an_empty_answer_is_told_once_with_its_end() -> None:
    result = {"text": "", "finish_reason": "stop"}
    assert [(one.text, one.finish) for one in Progress().rest_of(result)] == [("", "stop")]
    heard = Progress()
    heard.take(1, [Delta(0, [1], "", finish="stop")])
    assert list(heard.rest_of(result)) == []


@pytest.mark.parametrize("result", [None, 7, {}, {"embedding": [1.0]}, {"text": "x"}])
def test_the_result_of_something_else_tells_nothing(result: Any) -> None:
    assert list(Progress().rest_of(result)) == []


@pytest.mark.parametrize("event_id", [None, "", "17-end", "17-1", "nonsense.1.2.3x"])
def test_an_id_without_progress_is_left_as_it_is(event_id: str | None) -> None:
    step_id, progress = Progress.read(event_id)
    assert (step_id, str(progress)) == (event_id, "")
