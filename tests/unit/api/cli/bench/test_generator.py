"""What the generator makes of answers."""

from __future__ import annotations

import pytest

from api.cli.bench.generator import error_kind, is_reused, unfinished

DONE = b'{"id":"1","state":"succeeded","batch_size":4,"result":{"state":"queued"},"links":{}}'
OPEN = b'{"id":"1","state":"queued","links":{"self":"/v1/jobs/1"}}'
FULL = b'{"type":"https://lanefleet.dev/problems/lane-full","title":"x"}'


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, DONE, None),
        (429, FULL, "429 lane-full"),
        (502, b"<html>", "502"),
        (200, b'{"state":"failed","error":{"reason":"invalid_input"}}', "failed: invalid_input"),
        (200, b'{"state":"expired"}', "expired: no reason"),
        (200, b"[]", "200"),
    ],
)
def test_errors_are_counted_by_kind(status: int, body: bytes, kind: str | None) -> None:
    assert error_kind(status, body) == kind


def test_a_job_under_way_is_asked_for_again() -> None:
    assert unfinished(202, OPEN) == "/v1/jobs/1?wait=30"
    assert unfinished(200, OPEN) == "/v1/jobs/1?wait=30"
    assert unfinished(200, DONE) is None
    assert unfinished(202, b"?") is None


def test_a_result_of_another_job_is_known_and_one_that_says_so_is_not() -> None:
    assert is_reused(b'{"state":"succeeded","cached":true,')
    assert is_reused(b'{"state":"succeeded","shared":true,')
    assert not is_reused(b'{"state":"succeeded",')
