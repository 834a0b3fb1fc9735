"""Speech in recordings: the detector, the formats that it hears, and what it refuses."""

from __future__ import annotations

import contextlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.catalog import ModelSpec, load_catalog
from common.errors import ConfigurationError, FleetError, InputTooLarge, InvalidInput
from common.inputs.checks import check_file
from tests.models.test_models import need
from tests.support.recordings import RATE, babble, hiss, packed
from tests.support.stack import ROOT
from worker.models import audio
from worker.models.audio import decode_audio, resample
from worker.models.base import Json
from worker.models.vad import Vad

need("onnxruntime", "soundfile", "silero_vad")


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load_catalog(ROOT / "deploy" / "models.yaml")["vad"]


@pytest.fixture(scope="module")
def vad(spec: ModelSpec) -> Vad:
    made = Vad()
    made.load(spec, "cpu")
    return made


def heard(vad: Vad, content: bytes, **params: Json) -> Json:
    (output,) = vad.infer([vad.decode(content, params)])
    return vad.encode(output)


SPEECH = np.concatenate([hiss(1.0), babble(8), hiss(1.0), babble(4, 3), hiss(1.0)])
"""Speech from 1.0 to 2.7 s, and from 3.7 to 4.5 s."""


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("WAV", {}),
        ("FLAC", {}),
        ("OGG", {}),
        ("AIFF", {}),
        ("MP3", {}),
        ("WAV", {"subtype": "FLOAT"}),
    ],
)
def test_speech_is_found_in_every_format(vad: Vad, kind: str, more: dict[str, str]) -> None:
    found = heard(vad, packed(SPEECH, kind=kind, **more))["segments"]
    assert [(round(one["start"]), round(one["end"])) for one in found] == [(1, 3), (4, 5)]


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_and_channels_are_heard_alike(vad: Vad, rate: int) -> None:
    sound = resample(SPEECH, RATE, rate)
    found = heard(vad, packed(np.stack([sound, sound], axis=1), rate=rate))["segments"]
    assert [round(one["start"]) for one in found] == [1, 4]


@pytest.mark.parametrize("sound", [hiss(1.0), hiss(1.0, 0.1), np.zeros(9000, np.float32)])
def test_no_speech_is_found_where_there_is_none(vad: Vad, sound: np.ndarray) -> None:
    found = heard(vad, packed(sound), probabilities=True)
    assert found["segments"] == []
    assert found["speech_seconds"] == 0
    assert len(found["probabilities"]) == -(-len(sound) // 512)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=5))
def test_a_recording_gets_the_same_alone_and_in_company(vad: Vad, lengths: list[int]) -> None:
    items = [vad.decode(packed(SPEECH[-length:]), {}) for length in lengths]
    for item, output in zip(items, vad.infer(items), strict=True):
        (alone,) = vad.infer([item])
        assert np.abs(alone.probabilities - output.probabilities).max() < 1e-5


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 200), st.sampled_from(["WAV", "FLAC", "OGG"]))
def test_broken_files_are_refused_with_a_sentence(junk: bytes, at: int, kind: str) -> None:
    content = packed(hiss(0.1), kind=kind)
    content = content[:at] + junk + content[at + len(junk) :]
    with contextlib.suppress(FleetError):  # and nothing else
        found = decode_audio(content, RATE, 60)
        assert found.dtype == np.float32
        assert np.isfinite(found).all()


def test_what_is_too_long_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(InputTooLarge, match=r"lasts 61\.0 s, and 60 s are allowed"):
        decode_audio(packed(hiss(61)), RATE, 60)


def test_a_small_file_of_very_many_samples_is_refused() -> None:
    silence = np.zeros((655_350, 8), np.int16)  # ten minutes of it are 3 MB, and were 15 GB
    with pytest.raises(InputTooLarge, match=r"5,242,800 samples, 8 channels at 655350 Hz, and 800"):
        decode_audio(packed(silence, rate=655_350, kind="FLAC"), RATE, 1)


def test_a_recording_takes_no_more_memory_at_a_high_rate() -> None:
    content = packed(np.zeros(192_000 * 100, np.int16), rate=192_000, kind="FLAC")
    tracemalloc.start()
    try:
        assert len(decode_audio(content, RATE, 600)) == RATE * 100
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 70 * 2**20, "its samples alone are 77 MB"


def test_the_parts_of_a_recording_are_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    sound, expected = np.stack([SPEECH, SPEECH], axis=1), {}
    for rate in (RATE, 8_000, 44_100):
        expected[rate] = decode_audio(packed(sound, rate=rate), RATE, 60)
    for name, value in (("_PART", 1000), ("_NUMBERS_READ", 77), ("_NUMBERS_AT_A_TIME", 500)):
        monkeypatch.setattr(audio, name, value)
    for rate, whole in expected.items():
        found = decode_audio(packed(sound, rate=rate), RATE, 60)
        assert found.shape == whole.shape
        assert np.abs(found - whole).max() < 1e-5


def test_a_flac_from_a_pipe_does_not_say_how_long_it_is(vad: Vad) -> None:
    content = bytearray(packed(SPEECH, kind="FLAC"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    assert heard(vad, bytes(content)) == heard(vad, packed(SPEECH, kind="FLAC"))


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 48_000])
def test_an_mp3_of_any_rate_is_taken(rate: int) -> None:
    content = packed(np.zeros(rate, np.float32), rate=rate, kind="MP3")
    assert check_file("audio", content, 10**6)
    assert abs(len(decode_audio(content, RATE, 60)) - RATE) < 100


@pytest.mark.parametrize("level", [np.nan, np.inf, 3e38])
def test_what_is_no_loudness_is_refused(level: float) -> None:
    sound = np.full((RATE, 2), level, np.float32)
    with pytest.raises(InvalidInput, match="no numbers, or huge ones"):
        decode_audio(packed(sound, subtype="FLOAT"), RATE, 60)


def test_an_empty_recording_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no samples"):
        decode_audio(packed(np.zeros(0, np.float32)), RATE, 60)


def test_tones_survive_another_rate_and_higher_ones_are_filtered_out() -> None:
    at = np.arange(44_100) / 44_100
    low = resample(np.sin(2 * np.pi * 440 * at).astype(np.float32), 44_100, RATE)
    wanted = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    assert np.abs(low - wanted)[200:-200].max() < 1e-3
    high = resample(np.sin(2 * np.pi * 20_000 * at).astype(np.float32), 44_100, RATE)
    assert np.abs(high)[200:-200].max() < 1e-3


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"threshold": 2}, "threshold"),
        ({"loud": 1}, "unknown param"),
        ({"probabilities": 1}, "true"),
    ],
)
def test_wrong_params_are_refused(vad: Vad, params: dict[str, Json], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        vad.decode(packed(hiss(0.1)), params)


def test_another_network_is_refused(spec: ModelSpec) -> None:
    other = "package:rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"
    with pytest.raises(ConfigurationError, match="runs networks of input, state"):
        Vad().load(spec.model_copy(update={"weights": other}), "cpu")
