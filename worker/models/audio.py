"""Recordings as one channel of numbers at one rate, by libsndfile.

Whatever a client sends is bounded before it is decoded: by its length in seconds, which the header
tells, and by the frames that are read.
"""

from __future__ import annotations

import io
import math
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
_PLACES_AT_A_TIME = 1 << 15
"""Outputs whose inputs are copied side by side at once: 16 MB, whatever the recording's length."""
_CUTOFF = 0.95
"""Of the lower of the two Nyquist frequencies: what is above is filtered out."""


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
            _check(opened, max_seconds)
            most = math.ceil(max_seconds * opened.samplerate) + 1
            found = opened.read(most, dtype="float32", always_2d=True)
            own_rate = int(opened.samplerate)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, TypeError) as exc:
        raise InvalidInput("the recording is truncated or corrupt; send it again") from exc
    if len(found) / own_rate > max_seconds:  # its header said less
        raise _too_long(len(found) / own_rate, max_seconds)
    if not len(found):
        raise InvalidInput("the recording has no samples; send one that has sound")
    mono = np.asarray(found.mean(axis=1), np.float32)
    if not np.isfinite(mono).all():
        raise InvalidInput("the recording has samples that are no numbers; send it again")
    return resample(mono, own_rate, rate)


def _check(opened: Any, max_seconds: float) -> None:
    rate, channels = int(opened.samplerate), int(opened.channels)
    if not 0 < rate <= _MAX_RATE or not 0 < channels <= _MAX_CHANNELS:
        raise InvalidInput(
            f"the recording has {channels} channels at {rate} Hz; send at most {_MAX_CHANNELS} at "
            f"at most {_MAX_RATE} Hz"
        )
    # Of a stream whose length is not written down it is a huge number.
    if 0 < opened.frames < 2**62 and opened.frames / rate > max_seconds:
        raise _too_long(opened.frames / rate, max_seconds)


def _too_long(seconds: float, most: float) -> InputTooLarge:
    return InputTooLarge(
        f"the recording lasts {seconds:.1f} s, and {most:g} s are allowed; send it in parts"
    )


def resample(samples: Samples, before: int, after: int) -> Samples:
    """At another rate, by a windowed sinc for each phase of the ratio (Smith, "Digital Audio
    Resampling"): frequencies that the lower rate cannot hold are filtered out.
    """
    common = math.gcd(before, after)
    up, down = after // common, before // common
    if up == down:
        return samples
    width = _CUTOFF * min(1.0, up / down)
    half = math.ceil(_TAPS_PER_SIDE / width)
    count = -(-len(samples) * up // down)
    padded = np.pad(samples, (half, half))
    out = np.empty(count, np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)
    for phase in range(min(up, count)):
        # Output numbers phase, phase + up, ... lie at the same place between two inputs.
        at = phase * down
        first, beyond = at // up, (at % up) / up
        offsets = np.arange(-half + 1, half + 1) - beyond
        taps = width * np.sinc(width * offsets) * np.hanning(2 * half + 2)[1:-1]
        taps = (taps / taps.sum()).astype(np.float32)
        places = out[phase::up]
        for begin in range(0, len(places), _PLACES_AT_A_TIME):
            part = places[begin : begin + _PLACES_AT_A_TIME]
            starts = first + 1 + (begin + np.arange(len(part))) * down
            part[:] = windows[np.minimum(starts, len(windows) - 1)] @ taps
    return out
