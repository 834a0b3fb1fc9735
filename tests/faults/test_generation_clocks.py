"""Texts are streamed alike by workers and APIs whose clocks are an hour off."""

from __future__ import annotations

import httpx
import pytest

from tests.faults.test_clocks import faketime
from tests.faults.test_generation_kills import serve
from tests.support.null_generator import text_of
from tests.support.stack import Stack


@pytest.mark.parametrize(("worker", "api"), [("+1h", "-1h"), ("-1h", "+1h")])
def test_a_text_ends_in_time_whatever_clocks_say(stack: Stack, worker: str, api: str) -> None:
    serve(stack)
    stack.worker("gen", **faketime(worker))
    front = stack.api("gen", **faketime(api))
    params = {"max_tokens": 40, "seed": 5, "stream": True}
    job = front.client.submit("gen", "clocks", params=params, deadline=60)
    said = list(front.client.tokens(job["id"]))
    assert "".join(one.text for one in said) == text_of("clocks", 40, seed=5)
    late = front.client.submit("gen", "late", params={"max_tokens": 3000}, deadline=1, wait=20)
    assert late["state"] == "expired"
    sent = {"text": "whole", "model": "gen", "max_length": 20, "temperature": 0}
    whole = httpx.post(f"{front.url}/v1/generate", json=sent, timeout=30).json()
    assert whole["generated_text"] == text_of("whole", 20)
    assert 0 < whole["inference_time"] < 60
