"""Jobs that generate tell of their end once, however it comes, with the text that there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.generation import GREEDY, catalog
from tests.support.null_generator import text_of
from tests.support.receiver import HOST, Receiver, listening
from tests.support.stack import ApiProcess, Stack, wait_until

TOKENS = 100


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with listening(Receiver()) as made:
        yield made


def serve(stack: Stack) -> ApiProcess:
    path = catalog(stack.folder, gen={"slots": 4, "step_ms": 10})
    stack.environment |= {
        "LANEFLEET_CATALOG": str(path),
        "LANEFLEET_LEASE_SECONDS": "1.5",
        "LANEFLEET_WEBHOOK_ALLOW": HOST,
    }
    stack.courier("gen")
    return stack.api("gen")


def ask(api: ApiProcess, prompt: str, receiver: Receiver, **more: Any) -> str:
    params = {**GREEDY, "max_tokens": TOKENS, "stream": True, **more.pop("params", {})}
    job = {"model": "gen", "input": prompt, "params": params, "webhook": receiver.url, **more}
    answer = httpx.post(f"{api.url}/v1/jobs", json=job, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def told(receiver: Receiver) -> dict[str, dict[str, Any]]:
    """By job, the one event of its end."""
    events = [json.loads(one.body) for one in list(receiver.received)]
    found = {one["data"]["id"]: one for one in events}
    assert len(found) == len(events), "an end was told twice"
    return found


def test_each_end_of_a_streamed_text_is_told_once(stack: Stack, receiver: Receiver) -> None:
    api = serve(stack)
    first = stack.worker("gen")
    whole = [ask(api, f"text {number}", receiver) for number in range(2)]
    wait_until(lambda: stack.redis.exists(*(f"lf:said:{one}" for one in whole)) == 2, 30)
    first.kill()
    stack.worker("gen")
    canceled = ask(api, "canceled", receiver, params={"max_tokens": 2_000})
    left = ask(api, "left", receiver, params={"max_tokens": 2_000})
    events = f"{api.url}/v1/jobs/{left}/events?on_disconnect=cancel"
    with httpx.stream("GET", events, timeout=30) as stream:
        next(line for line in stream.iter_lines() if line == "event: token")
    wait_until(lambda: stack.redis.exists(f"lf:said:{canceled}"), 30)
    api.client.cancel(canceled)
    late = ask(
        *(api, "late", receiver),
        params={"max_tokens": 2_000, "on_deadline": "partial"},
        deadline=1,
    )
    wait_until(lambda: len(told(receiver)) == 5, 60, "five ends")
    found = told(receiver)
    for number, job_id in enumerate(whole):
        data = found[job_id]["data"]
        assert found[job_id]["type"] == "job.succeeded"
        assert data["result"]["text"] == text_of(f"text {number}", TOKENS), "over two workers"
    assert [found[one]["type"] for one in (canceled, left)] == ["job.canceled"] * 2
    result = found[late]["data"]["result"]
    assert (found[late]["type"], result["finish_reason"]) == ("job.succeeded", "deadline")
    assert text_of("late", 2_000).startswith(result["text"].rstrip())
    assert result["text"]
