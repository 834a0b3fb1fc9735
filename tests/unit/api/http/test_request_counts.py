"""Requests by route: few series, whatever clients send."""

from __future__ import annotations

from api.http.request_counts import EDGES, RequestCounts


def test_methods_that_nobody_serves_are_one() -> None:
    counts = RequestCounts()
    for number in range(1_000):
        counts.ended((f"METHOD{number}", "(none)", 405, ""), 0.01)
    counts.ended(("GET", "/health", 200, ""), 0.01)
    found = {key: sum(one.counts) for key, one in counts.items()}
    assert found == {("other", "(none)", 405, ""): 1_000, ("GET", "/health", 200, ""): 1}


def test_requests_are_summed_over_what_is_not_asked_for() -> None:
    counts = RequestCounts()
    for lane in ("a", "a", "b", ""):
        counts.ended(("POST", "/v1/jobs", 202, lane), 0.002)
    counts.ended(("POST", "/v1/jobs", 429, "b"), 100.0)
    by_status = counts.by(1, 2)
    assert {key: sum(one.counts) for key, one in by_status.items()} == {
        ("/v1/jobs", "202"): 4,
        ("/v1/jobs", "429"): 1,
    }
    assert by_status["/v1/jobs", "429"].counts == [0] * len(EDGES) + [1]
    assert {key: sum(one.counts) for key, one in counts.by(3).items()} == {
        **{("a",): 2, ("b",): 2, ("",): 1}
    }
