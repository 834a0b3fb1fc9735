"""Recordings through the whole system: sent in every way, heard by a worker."""

from __future__ import annotations

from base64 import b64encode

import httpx

from api.client import Client
from tests.models.test_models import need
from tests.support.recordings import babble, hiss, packed
from tests.support.stack import Stack

need("onnxruntime", "soundfile", "silero_vad", "numpy")
WAIT = {"Prefer": "wait=60"}


def test_a_recording_is_heard_however_it_is_sent(stack: Stack) -> None:
    import numpy as np

    api = stack.api("vad")
    stack.worker("vad")
    sound = packed(np.concatenate([hiss(0.5), babble(6), hiss(0.5)]), kind="FLAC")
    post = f"{api.url}/v1/jobs"
    body = {"model": "vad", "input": {"audio": b64encode(sound).decode()}}
    answers = [
        httpx.post(post, json=body, headers=WAIT, timeout=90),
        httpx.post(post, data={"model": "vad"}, files={"file": sound}, headers=WAIT, timeout=90),
        httpx.post(
            f"{post}?model=vad",
            content=sound,
            headers={**WAIT, "Content-Type": "audio/flac"},
            timeout=90,
        ),
    ]
    with Client(api.url) as client:
        results = [answer.json()["result"] for answer in answers]
        results.append(client.submit("vad", sound, wait=60)["result"])
    assert len(results[0]["segments"]) == 1
    assert all(result == results[0] for result in results)


def test_what_is_no_recording_is_refused_at_the_front(stack: Stack) -> None:
    api = stack.api("vad")
    for content in (b"\x89PNG\r\n\x1a\n123", b"RIFF1234WEBP", b"no sound"):
        body = {"model": "vad", "input": {"audio": b64encode(content).decode()}}
        answer = httpx.post(f"{api.url}/v1/jobs", json=body)
        assert answer.status_code == 415
        assert "WAV, FLAC, Ogg, MP3 or AIFF" in answer.json()["detail"]
    image = httpx.post(f"{api.url}/v1/jobs", json={"model": "vad", "input": {"image": "AAAA"}})
    assert image.status_code == 422
    assert '{"audio": "<base64>"}' in image.json()["detail"]
