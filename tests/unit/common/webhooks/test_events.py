"""An entry of the outbox becomes an event, whatever the result was."""

from __future__ import annotations

import json

import pytest

from common.batches.records import BatchStatus
from common.jobs.result_document import Stamp
from common.webhooks.events import EVENT_OF_BATCH, EVENTS, read_entry

NEXT = b'{"webhook":"https://example.com/hook"}\n'
STAMP = Stamp("echo", "1", "w", 1, 1.0, 1)


def told(result: bytes) -> dict[str, object]:
    meta = STAMP.success(result, "a", 1, 1, 1, "acme")
    event = read_entry({b"id": b"a", b"next": NEXT, b"meta": meta}, 100, "")
    assert event.type == "job.succeeded"
    found: dict[str, object] = json.loads(event.body)["data"]
    return found


@pytest.mark.parametrize(
    "result",
    [
        b"[" + b"9" * 30 + b", NaN]",
        b'["\\ud800"]',
        b"[" * 300 + b"]" * 300,
        b'"' + b"x" * 99 + b'"',
    ],
    ids=["a number beyond 64 bits", "half a character", "deep", "large"],
)
def test_a_result_that_cannot_be_told_is_linked_to_and_its_event_is_not_lost(result: bytes) -> None:
    data = told(result)
    assert "result" not in data
    assert "links.result" in str(data["result_omitted"])


def test_a_small_result_is_told() -> None:
    assert told(b'{"n":1}')["result"] == {"n": 1}


def test_half_a_character_in_an_error_is_replaced() -> None:
    meta = json.dumps(
        {
            "status": "FAILURE",
            "lanefleet": {"state": "failed", "lane": "echo", "reason": "model", "error": "\ud800"},
        }
    ).encode()
    event = read_entry({b"id": b"a", b"next": NEXT, b"meta": meta}, 100, "")
    assert json.loads(event.body)["data"]["error"]["message"] == "?"


def test_every_end_of_a_batch_is_an_event() -> None:
    ends = {one for one in BatchStatus if one.ended}
    assert set(EVENT_OF_BATCH) == {one.value for one in ends}
    assert {f"batch.{one}" for one in ends} <= set(EVENTS)
