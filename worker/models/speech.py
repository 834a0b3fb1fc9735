"""From how likely each frame is speech to segments of speech: pure, by hysteresis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ("Limits", "Segment", "segments_of")

Segment = tuple[float, float]
"""Start and end, seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When speech begins and ends."""

    threshold: float = 0.5
    """Speech begins with a frame at least so likely, and ends below it by `drop`."""
    drop: float = 0.15
    min_speech_seconds: float = 0.25
    """A shorter segment is none."""
    min_silence_seconds: float = 0.1
    """A shorter pause ends no segment."""
    pad_seconds: float = 0.03
    """Added to both ends of each segment, as far as there is room."""


def segments_of(
    probabilities: Sequence[float], frame_seconds: float, seconds: float, limits: Limits
) -> list[Segment]:
    """The segments of a recording that lasts so long, in order, none over another."""
    kept = [
        one
        for one in _raw(probabilities, frame_seconds, limits)
        if one[1] - one[0] >= limits.min_speech_seconds
    ]
    found: list[Segment] = []
    for index, (start, end) in enumerate(kept):
        before = kept[index - 1][1] if index else 0.0
        after = kept[index + 1][0] if index + 1 < len(kept) else seconds
        first = before + (start - before) / 2 if index else 0.0
        last = end + (after - end) / 2 if index + 1 < len(kept) else seconds
        start = max(first, start - limits.pad_seconds)
        end = min(last, end + limits.pad_seconds)
        if end > start:
            found.append((start, end))
    return found


def _raw(probabilities: Sequence[float], frame_seconds: float, limits: Limits) -> Iterator[Segment]:
    start: float | None = None
    quiet: float | None = None
    for number, probability in enumerate(probabilities):
        at = number * frame_seconds
        if probability >= limits.threshold:
            start, quiet = at if start is None else start, None
        elif start is not None and probability < limits.threshold - limits.drop:
            quiet = at if quiet is None else quiet
            if at + frame_seconds - quiet >= limits.min_silence_seconds:
                yield start, quiet
                start = quiet = None
    if start is not None:
        yield start, quiet or len(probabilities) * frame_seconds
