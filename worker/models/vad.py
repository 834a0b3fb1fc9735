"""Where somebody speaks in a recording: Silero's voice activity detector (version 6), ONNX.

The example of a model that is neither text nor image. It is stateful: each frame of 32 ms is run
with the state that the last one left. So the recordings of a batch advance side by side, a frame
each, and one that ends leaves the others: a batch costs the sum of its frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.catalog import ModelSpec
from common.errors import ConfigurationError, InvalidInput
from worker.models.audio import decode_audio
from worker.models.base import Json
from worker.models.params import read_number, refuse_unknown
from worker.models.requirements import missing_package
from worker.models.sessions import Session, open_session
from worker.models.speech import Limits, segments_of
from worker.models.weights import find_weights

__all__ = ("Vad",)

RATE, FRAME, CONTEXT, STATE = 16_000, 512, 64, 128
"""Samples a second, new ones a frame, those of the last frame before them, numbers of state."""
MAX_SECONDS = 600.0
PARAMS = ("threshold", "min_speech_seconds", "min_silence_seconds", "pad_seconds", "probabilities")
_INPUTS = {"input", "state"}


@dataclass(frozen=True, slots=True)
class Recording:
    """Its frames, F x 576, each with the end of the one before."""

    frames: NDArray[np.float32]
    seconds: float
    limits: Limits
    wants_probabilities: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """How likely each frame of a recording is speech."""

    probabilities: NDArray[np.float32]
    recording: Recording


class Vad:
    """Returns segments of speech of one recording a job."""

    pads = False

    def __init__(self) -> None:
        self._session: Session | None = None
        self.backend = "onnx"
        self._constants: dict[str, NDArray[Any]] = {}
        self._max_seconds = MAX_SECONDS

    def load(self, spec: ModelSpec, device: str) -> None:  # noqa: ARG002  a CPU is faster here
        """Open the ONNX file. options: max_seconds, threads."""
        try:
            import soundfile  # noqa: F401  decode needs it, and says so late
        except ImportError as exc:
            raise missing_package(spec.name, exc) from exc
        path = find_weights(spec.weights)
        threads = int(spec.options.get("threads", 1))
        self._session = open_session(
            path, backend=spec.backend or "onnx", device="cpu", threads=threads
        )
        self.backend = self._session.backend
        names = {port.name for port in self._session.inputs}
        if not names >= _INPUTS or len(self._session.outputs) != 2:
            raise ConfigurationError(
                f"models.{spec.name}.weights: {path} takes {', '.join(sorted(names))}; this "
                f"handler runs networks of {', '.join(sorted(_INPUTS))}, as Silero's version 6"
            )
        if "sr" in names:
            self._constants = {"sr": np.array(RATE, np.int64)}
        self._max_seconds = float(spec.options.get("max_seconds", MAX_SECONDS))

    def decode(self, value: Any, params: Mapping[str, Any]) -> Recording:
        """The recording at 16 kHz, cut into frames."""
        limits, wants = _read_params(params)
        samples = decode_audio(value, RATE, self._max_seconds)
        count = -(-len(samples) // FRAME)
        padded = np.zeros(CONTEXT + count * FRAME, np.float32)
        padded[CONTEXT : CONTEXT + len(samples)] = samples
        windows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + FRAME)
        return Recording(windows[::FRAME], len(samples) / RATE, limits, wants)

    def cost(self, item: Recording) -> float:
        """Its frames."""
        return float(len(item.frames))

    def infer(self, items: Sequence[Recording]) -> list[Heard]:
        """Run all recordings side by side; the longest are the first rows, so others leave last."""
        assert self._session is not None
        order = sorted(range(len(items)), key=lambda at: -len(items[at].frames))
        counts = [len(items[at].frames) for at in order]
        said = [np.empty(count, np.float32) for count in counts]
        state = np.zeros((2, len(items), STATE), np.float32)
        rows = len(items)
        for step in range(counts[0] if counts else 0):
            while counts[rows - 1] <= step:
                rows -= 1
            state = np.ascontiguousarray(state[:, :rows])
            frames = np.stack([items[at].frames[step] for at in order[:rows]])
            feeds = {"input": frames, "state": state, **self._constants}
            probabilities, state = self._session.run(feeds)
            for row in range(rows):
                said[row][step] = probabilities[row, 0]
        by_item = dict(zip(order, said, strict=True))
        return [Heard(by_item[at], item) for at, item in enumerate(items)]

    def encode(self, output: Heard) -> Json:
        """The segments in seconds, and how much of the recording they are."""
        recording = output.recording
        found = segments_of(
            output.probabilities.tolist(), FRAME / RATE, recording.seconds, recording.limits
        )
        result: dict[str, Json] = {
            "segments": [{"start": round(a, 3), "end": round(b, 3)} for a, b in found],
            "seconds": round(recording.seconds, 3),
            "speech_seconds": round(sum(b - a for a, b in found), 3),
        }
        if recording.wants_probabilities:
            result["frame_seconds"] = FRAME / RATE
            result["probabilities"] = [round(one, 4) for one in output.probabilities.tolist()]
        return result

    def example(self) -> bytes:
        """Half a second of a tone, to warm up with."""
        import io

        import soundfile

        tone = np.sin(np.arange(RATE // 2) * (2 * np.pi * 220 / RATE))
        buffer = io.BytesIO()
        soundfile.write(buffer, tone * 0.1, RATE, format="WAV")
        return buffer.getvalue()


def _read_params(params: Mapping[str, Any]) -> tuple[Limits, bool]:
    refuse_unknown(params, PARAMS)
    usual = Limits()
    wants = params.get("probabilities", False)
    if not isinstance(wants, bool):
        raise InvalidInput("params.probabilities must be true or false")
    return (
        Limits(
            threshold=read_number(params, "threshold", usual.threshold, 0.01, 0.99),
            min_speech_seconds=read_number(
                params, "min_speech_seconds", usual.min_speech_seconds, 0, 60
            ),
            min_silence_seconds=read_number(
                params, "min_silence_seconds", usual.min_silence_seconds, 0, 60
            ),
            pad_seconds=read_number(params, "pad_seconds", usual.pad_seconds, 0, 10),
        ),
        wants,
    )
