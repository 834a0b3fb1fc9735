"""Recordings made by code: vowels as a throat would make them, noise, silence."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

Sound = NDArray[np.float32]
RATE = 16_000
_VOWELS = (
    ((700, 80), (1220, 90), (2600, 120)),
    ((300, 60), (2300, 100), (3000, 120)),
    ((450, 70), (1900, 100), (2500, 120)),
    ((350, 60), (700, 80), (2400, 120)),
)
"""Formants: frequency and bandwidth, Hz."""


def babble(syllables: int, seed: int = 1) -> Sound:
    """Syllables of 0.16 s with 0.05 s between, which a detector of speech takes for speech."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(syllables):
        parts.append(_vowel(0.16, 120 + 10 * (number % 3), _VOWELS[number % 4], rng))
        parts.append((0.02 * rng.standard_normal(800)).astype(np.float32))
    return np.concatenate(parts)


def hiss(seconds: float, loud: float = 0.002, seed: int = 2) -> Sound:
    """White noise."""
    rng = np.random.default_rng(seed)
    return (loud * rng.standard_normal(int(seconds * RATE))).astype(np.float32)


def packed(sound: NDArray[np.float32], rate: int = RATE, kind: str = "WAV", **more: str) -> bytes:
    """The bytes of a file."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate, format=kind, **more)
    return buffer.getvalue()


def _vowel(
    seconds: float, pitch: float, formants: tuple[tuple[int, int], ...], rng: np.random.Generator
) -> Sound:
    count = int(seconds * RATE)
    at = np.arange(count) / RATE
    phase = np.cumsum(pitch * (1 + 0.05 * np.sin(2 * np.pi * 5 * at))) / RATE
    source = np.diff(np.floor(phase), prepend=0) + 0.005 * rng.standard_normal(count)
    sound = np.zeros(count)
    for frequency, width in formants:
        # The resonator's answer to one pulse, over as long as it is heard.
        ring = np.exp(-np.pi * width * at) * np.sin(2 * np.pi * frequency * at)
        one = np.convolve(source, ring)[:count]
        sound += one / np.abs(one).max()
    return (0.4 * sound / np.abs(sound).max()).astype(np.float32)
