"""What one execution does to the others of its batch when its result cannot be told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import structlog.testing
from redis.exceptions import ConnectionError

from common.catalog import ModelSpec
from tests.support.models import calls
from tests.support.stack import wait_until
from worker.jobs.execution import Disposition, Execution, Hold, Retry, model_is_to_blame
from worker.jobs.lease_calls import FinishedJob
from worker.lanes.lane import Lane
from worker.lanes.redis_health import RedisHealth
from worker.lanes.state import WorkerState
from worker.pipeline.finisher import Finisher, Listener, Published


class Bench:
    """A finisher over one lane; keeps what was published, what listeners heard, and what lapsed."""

    def __init__(self, *listeners: Listener, **settings: Any) -> None:
        self.published: dict[str, dict[str, Any]] = {}
        self.told: list[int] = []
        self.ttls: dict[str, int] = {}
        spec = ModelSpec(name="m", handler="echo", version="1")
        self.lane = Lane("m", spec, result_ttl_seconds=60, look_ahead_jobs=256, max_fetching=8)
        self.state = WorkerState({"m": self.lane})
        self.finisher = Finisher(
            self.state,
            {"m": SimpleNamespace(finish=self._finish)},  # type: ignore[dict-item]
            "one",
            RedisHealth(0.0),
            [*listeners, lambda published: self.told.append(len(published.executions))],
            calls(**settings),
        )

    def finish(self, *batches: Sequence[Execution]) -> Finisher:
        """Let it publish these to the end."""
        self.finisher.start()
        for batch in batches:
            self.lane.in_hand |= {one.tag: one for one in batch}
            self.finisher.submit_ended(self.lane, batch)
        self.finisher.stop(60)
        return self.finisher

    def _finish(self, outcomes: Sequence[FinishedJob], ttl: int) -> list[int]:
        for outcome in outcomes:
            self.ttls[outcome.job_id] = ttl
            outcome.job_id.encode()  # as the client of Redis does
            self.published[outcome.job_id] = json.loads(outcome.meta)
        return []


def execution(job_id: str, error: BaseException | None = None) -> Execution:
    """One that ran, or that the model failed with this error."""
    made = Execution(job_id.encode("utf-8", "replace"), 1, 0, job_id, 0.0)
    made.handler, made.output = SimpleNamespace(encode=lambda output: output), "fine"  # type: ignore[assignment]
    if error is not None:
        made.fail("infer", error)
    return made


class Mute(Exception):
    """Cannot say what it is about."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("\ud800"), "infer failed: ValueError: ?"),
        (Mute(), "infer failed: Mute: what it says cannot be read"),
    ],
)
def test_an_error_that_is_no_text_costs_no_other_result(error: Exception, said: str) -> None:
    bench = Bench()
    finisher = bench.finish([execution("good"), execution("bad", error)])
    assert bench.published["good"]["result"] == "fine"
    assert bench.published["bad"]["lanefleet"]["error"] == said
    assert bench.published["bad"]["result"]["exc_type"] == type(error).__name__
    assert (finisher.finished, bench.state.unpublished) == (2, 0)
    assert bench.told == [2]


@pytest.mark.parametrize("error", [None, ValueError("no")])
def test_a_result_that_cannot_be_written_is_lost_alone(error: Exception | None) -> None:
    """Of a message whose id is no UTF-8, which another client may send."""
    bench = Bench()
    finisher = bench.finish([execution("good"), execution("\ud800", error)])
    assert list(bench.published) == ["good"]
    assert finisher.finished == 1
    assert bench.lane.in_hand == {}, "its lease lapses"


def test_an_ignored_result_goes_before_the_others() -> None:
    bench = Bench()
    bench.lane = Lane(
        "m", bench.lane.spec, result_ttl_seconds=900, look_ahead_jobs=1, max_fetching=1
    )
    ignored, kept = execution("ignored"), execution("kept")
    ignored.ignore_result = True
    bench.finish([ignored, kept])
    assert bench.ttls == {"ignored": 60, "kept": 900}
    assert bench.published.keys() == {"ignored", "kept"}


@pytest.mark.parametrize(
    ("limits", "exception"),
    [
        ((1.0, None), "TimeLimitExceeded"),
        ((None, 1.0), "SoftTimeLimitExceeded"),
        ((1.0, 0.5), "TimeLimitExceeded"),
        ((3.0, None), None),
    ],
)
def test_a_run_that_took_too_long_is_a_failure_for_who_says_so(
    limits: tuple[float | None, float | None], exception: str | None
) -> None:
    bench = Bench()
    limited, other = execution("limited"), execution("other")
    limited.time_limits = limits
    bench.finisher.start()
    bench.finisher.submit_batch(bench.lane, [limited, other], 2000)
    bench.finisher.stop(60)
    assert bench.published["other"]["status"] == "SUCCESS"
    result = bench.published["limited"]["result"]
    assert (result["exc_type"] if exception else None) == exception
    if exception:
        assert result["exc_module"] == "celery.exceptions"
        assert bench.published["limited"]["lanefleet"]["reason"] == "time_limit"
        assert not model_is_to_blame(limited)


def test_a_listener_that_raises_ends_neither_the_thread_nor_the_others() -> None:
    def raises(_published: Published) -> None:
        raise RuntimeError("nobody listens")

    bench = Bench(raises)
    bench.finish([execution("first")], [execution("second")])
    assert list(bench.published) == ["first", "second"]
    assert bench.told == [1, 1]
    assert bench.lane.in_hand == {}
    assert bench.state.unpublished == 0


def test_what_redis_did_not_take_before_the_end_counts_as_nothing() -> None:
    """Its lease lapses and it runs again: nobody may discard its input or keep its result."""
    heard: list[Sequence[Execution]] = []
    bench = Bench(lambda published: heard.append(published.finished))

    def refuse(_outcomes: Sequence[FinishedJob], _ttl: int) -> list[int]:
        raise ConnectionError("away")

    bench._finish = refuse  # type: ignore[method-assign]
    bench.finisher._leases["m"].finish = refuse  # type: ignore[method-assign,assignment]
    bench.finisher.start()
    bench.finisher.submit_ended(bench.lane, [execution("one")])
    bench.finisher.stop(0)
    wait_until(lambda: heard, 10, "the group's end")
    assert heard == [()]
    assert bench.finisher.finished == 0


@pytest.mark.parametrize("error", [SystemExit(3), ValueError("no")])
def test_a_model_that_raises_in_encode_fails_its_own_job_alone(error: BaseException) -> None:
    def raises(_output: object) -> object:
        raise error

    bad = execution("bad")
    bad.handler = SimpleNamespace(encode=raises)  # type: ignore[assignment]
    bench = Bench()
    bench.finish([bad, execution("good")], [execution("next")])
    assert {name: one["status"] for name, one in bench.published.items()} == {
        "bad": "FAILURE",
        "good": "SUCCESS",
        "next": "SUCCESS",
    }
    assert bench.lane.in_hand == {}


@pytest.mark.parametrize("disposition", [Retry(after_ms=1043), Retry(at_ms=7), Hold(5000)])
def test_a_log_line_names_a_delay_without_its_figures(disposition: Disposition) -> None:
    one = execution("one")
    one.disposition, one.error = disposition, ValueError("no")
    one.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    bench = Bench()
    bench.finisher._leases["m"].retry = lambda jobs: len(list(jobs))  # type: ignore[method-assign]
    with structlog.testing.capture_logs() as lines:
        bench.finish([one])
    assert [line["outcome"] for line in lines if line["event"] == "job_settled"] == ["parked"]


def test_a_result_that_redis_would_not_take_fails_its_job_alone() -> None:
    bench = Bench(max_result_bytes=1024)
    large, mate = execution("large"), execution("mate")
    large.output = "x" * 1023  # and two quotes
    bench.finish([large, mate])
    told = bench.published["large"]["lanefleet"]
    assert (told["state"], told["reason"]) == ("failed", "result_too_large")
    assert "1,025 bytes" in told["error"]
    assert "LANEFLEET_MAX_RESULT_BYTES" in told["error"]
    assert bench.published["mate"]["result"] == "fine"
