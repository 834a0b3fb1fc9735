"""From probabilities to segments."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.models.speech import Limits, segments_of

PLAIN = Limits(min_speech_seconds=0.2, min_silence_seconds=0.2, pad_seconds=0.0)


def test_a_dip_above_the_lower_threshold_ends_nothing() -> None:
    assert segments_of([0.9, 0.4, 0.9, 0.1, 0.1, 0.1], 0.25, 1.5, PLAIN) == [(0.0, 0.75)]


def test_a_short_pause_ends_nothing_and_a_short_noise_is_none() -> None:
    said = [0.9, 0.9, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1]
    assert segments_of(said, 0.1, 1.1, PLAIN) == [(0.0, 0.5)]


@given(st.lists(st.floats(0, 1), max_size=60), st.floats(0, 0.3))
def test_segments_are_in_order_and_inside(said: list[float], pad: float) -> None:
    seconds = len(said) * 0.032
    found = segments_of(said, 0.032, seconds, Limits(pad_seconds=pad))
    edges = [edge for one in found for edge in one]
    assert edges == sorted(edges)
    assert all(0 <= edge <= seconds + 1e-9 for edge in edges)
