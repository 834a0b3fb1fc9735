"""Recordings as one channel of numbers at one rate, by libsndfile.

Whatever a client sends is bounded before it is decoded: by its length in seconds, which the header
tells, and by the numbers in it. It is read in parts, each of which becomes the one channel at the
one rate at once: silence at a high rate packs ten thousand to one.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputTooLarge, InvalidInput, UnsupportedMedia
from common.inputs.checks import AUDIO_FORMATS, sniff_audio

__all__ = ("decode_audio", "resample")

Samples = NDArray[np.float32]
_TAPS_PER_SIDE = 16
"""Zero crossings of the filter on each side."""
_MAX_CHANNELS, _MAX_RATE = 32, 768_000
_NUMBERS_A_SECOND = 800_000
"""Most of a recording that lasts as long as is allowed, all channels together: 16 channels at
48 kHz, or 4 at 192 kHz. They take a core some 4 s for ten minutes.
"""
_NUMBERS_READ = 1 << 20
"""Of all channels, at once."""
_PART = 1 << 21
"""Numbers of one channel that are brought to the other rate at once."""
_NUMBERS_AT_A_TIME = 1 << 21
"""Inputs copied side by side at once: 8 MB. Filters of more are made anew for each part."""
_CUTOFF = 0.95
"""Of the lower of the two Nyquist frequencies: what is above is filtered out."""
_LOUDEST = 1e6
"""Full scale is 1. What is far above is no sound, and makes the network's numbers infinite."""


def decode_audio(content: bytes, rate: int, max_seconds: float) -> Samples:
    """All of a recording, -1 to 1: its channels averaged, at `rate` samples a second.

    Raises UnsupportedMedia, InputTooLarge or InvalidInput with what to send instead.
    """
    import soundfile

    if sniff_audio(content) is None:
        raise UnsupportedMedia(
            f"the input is not audio that can be read here; send {AUDIO_FORMATS}"
        )
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as opened:
            # It is read once, from its beginning to its end; soundfile would seek after each part,
            # which fails where a FLAC was written to a pipe and does not say how long it is.
            opened.seekable = lambda: False
            own_rate = int(opened.samplerate)
            _check(opened, max_seconds)
            found = _resampled(_mono_parts(opened, max_seconds), own_rate, rate)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, TypeError) as exc:
        raise InvalidInput("the recording is truncated or corrupt; send it again") from exc
    if not len(found):
        raise InvalidInput("the recording has no samples; send one that has sound")
    return found


def _check(opened: Any, max_seconds: float) -> None:
    rate, channels = int(opened.samplerate), int(opened.channels)
    if not 0 < rate <= _MAX_RATE or not 0 < channels <= _MAX_CHANNELS:
        raise InvalidInput(
            f"the recording has {channels} channels at {rate} Hz; send at most {_MAX_CHANNELS} at "
            f"at most {_MAX_RATE} Hz"
        )
    # Of a stream whose length is not written down it is a huge number.
    if 0 < opened.frames < 2**62:
        _check_length(opened.frames, rate, channels, max_seconds)


def _check_length(frames: int, rate: int, channels: int, max_seconds: float) -> None:
    if frames / rate > max_seconds:
        raise _too_long(frames / rate, max_seconds)
    most = int(max_seconds * _NUMBERS_A_SECOND)
    if frames * channels > most:
        raise InputTooLarge(
            f"the recording has {frames * channels:,} samples, {channels} channels at {rate} Hz, "
            f"and {most:,} are allowed; send fewer channels, or a lower rate"
        )


def _mono_parts(opened: Any, max_seconds: float) -> Iterator[Samples]:
    """The mean of all channels, a part at a time. Each is valid until the next."""
    rate, channels = int(opened.samplerate), int(opened.channels)
    part, read, filled = np.empty(_PART, np.float32), 0, 0
    while True:
        room = min(_NUMBERS_READ // channels, _PART - filled)
        block = opened.read(room, dtype="float32", always_2d=True)
        read += len(block)
        _check_length(read, rate, channels, max_seconds)  # its header said less
        if not bool((np.abs(block) <= _LOUDEST).all()):
            raise InvalidInput(
                "the recording has samples that are no numbers, or huge ones; send it again, with "
                "full scale at 1"
            )
        part[filled : filled + len(block)] = block.mean(axis=1)
        filled += len(block)
        if filled == _PART or not len(block):
            yield part[:filled]
            filled = 0
        if not len(block):
            return


def _too_long(seconds: float, most: float) -> InputTooLarge:
    return InputTooLarge(
        f"the recording lasts {seconds:.1f} s, and {most:g} s are allowed; send it in parts"
    )


def resample(samples: Samples, before: int, after: int) -> Samples:
    """At another rate, by a windowed sinc for each phase of the ratio (Smith, "Digital Audio
    Resampling"): frequencies that the lower rate cannot hold are filtered out.
    """
    return _resampled([samples], before, after)


def _resampled(parts: Iterable[Samples], before: int, after: int) -> Samples:
    """The same numbers, wherever the parts end."""
    common = math.gcd(before, after)
    up, down = after // common, before // common
    if up == down:
        return np.concatenate([part.copy() for part in parts])
    width = _CUTOFF * min(1.0, up / down)
    half = math.ceil(_TAPS_PER_SIDE / width)
    held, out = np.zeros(half, np.float32), []
    taps = _Taps(up, down, half, width)
    for part in parts:
        held = np.concatenate([held, part])
        if (rounds := (len(held) - 2 * half) // down) > 0:
            out.append(_phases(held[: rounds * down + 2 * half], rounds * up, taps))
            held = held[rounds * down :]
    count = -(-(len(held) - half) * up // down)
    out.append(_phases(np.pad(held, (0, half)), count, taps))
    return np.concatenate(out)


class _Taps:
    """The filter of each phase of a ratio."""

    def __init__(self, up: int, down: int, half: int, width: float) -> None:
        self.up, self.down, self.half = up, down, half
        self._width = width
        self._kept: dict[int, Samples] | None = {}
        if up * 2 * half > _NUMBERS_AT_A_TIME:
            self._kept = None

    def at(self, phase: int) -> Samples:
        """Its numbers; 1 in all."""
        if self._kept is not None and (kept := self._kept.get(phase)) is not None:
            return kept
        half = self.half
        offsets = np.arange(-half + 1, half + 1) - (phase * self.down % self.up) / self.up
        taps = self._width * np.sinc(self._width * offsets) * np.hanning(2 * half + 2)[1:-1]
        made: Samples = (taps / taps.sum()).astype(np.float32)
        if self._kept is not None:
            self._kept[phase] = made
        return made


def _phases(padded: Samples, count: int, taps: _Taps) -> Samples:
    """So many outputs from samples that have half a filter's length more on each side."""
    out = np.empty(count, np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * taps.half)
    at_a_time = max(1, _NUMBERS_AT_A_TIME // (2 * taps.half))
    for phase in range(min(taps.up, count)):
        # Output numbers phase, phase + up, ... lie at the same place between two inputs.
        first = phase * taps.down // taps.up
        places = out[phase :: taps.up]
        for begin in range(0, len(places), at_a_time):
            part = places[begin : begin + at_a_time]
            starts = first + 1 + (begin + np.arange(len(part))) * taps.down
            part[:] = windows[np.minimum(starts, len(windows) - 1)] @ taps.at(phase)
    return out
