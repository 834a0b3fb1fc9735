"""What waits for a shadow is bounded, and what does not fit is counted."""

from __future__ import annotations

from typing import Any

from common.catalog import ModelSpec
from worker.jobs.execution import Execution
from worker.jobs.served import Served
from worker.lanes.lane_stats import LaneStats
from worker.lanes.shadow import Shadow, ShadowJob, ShadowLimits, ShadowStats
from worker.lanes.watch import first_score, watch_of

HANDLER: Any = object()


def jobs(count: int, value: Any = "input") -> list[Execution]:
    made = [Execution(b"", 1, 0, str(number), 0.0, value=value) for number in range(count)]
    for one in made:
        one.answer = b"{}"
    return made


def shadow(**limits: int) -> Shadow:
    made = Shadow("m@2", ShadowStats(), ShadowLimits(**limits))
    made.served = Served(ModelSpec(name="m@2", handler="echo"), HANDLER)
    return made


def test_no_more_inputs_are_kept_than_there_is_room_for() -> None:
    one = shadow(jobs=3)
    found = jobs(5)
    one.keep(found)
    assert [job.kept is not None for job in found] == [True] * 3 + [False] * 2
    assert one.stats.dropped == 2
    for job in found[:3]:
        one.offer(ShadowJob.of(job))
    assert len(one) == 3
    one.keep(jobs(2))
    assert one.stats.dropped == 4
    assert len(one.take(2)) == 2
    assert len(one) == 1


def test_bytes_are_bounded_too() -> None:
    one = shadow(size=100)
    found = jobs(3, "x" * 40)
    one.keep(found)
    for job in found:
        one.offer(ShadowJob.of(job))
    assert (len(one), one.stats.dropped) == (2, 1)
    one.take(2)
    one.offer(ShadowJob.of(found[0]))
    assert len(one) == 1, "what was taken makes room"


def test_json_counts_with_what_it_takes() -> None:
    one = shadow()
    for value, least in (({"deep": ["x" * 50]}, 60), (10**30, 31), (None, 2), ("\ud800", 1)):
        found = jobs(1, value)
        one.keep(found)
        assert least <= ShadowJob.of(found[0]).size < least + 20


def test_nothing_is_kept_for_one_that_is_not_loaded_and_what_waited_is_dropped() -> None:
    one = shadow()
    found = jobs(2)
    one.keep(found)
    one.offer(ShadowJob.of(found[0]))
    one.leave()
    one.offer(ShadowJob.of(found[1]))
    assert (len(one), one.stats.dropped) == (0, 2)
    later = jobs(1)
    one.keep(later)
    assert later[0].kept is None


def test_first_scores_are_noted_of_classifiers_alone() -> None:
    stats = LaneStats()
    classifier = ModelSpec(name="c", handler="echo", task="classify")
    assert watch_of(ModelSpec(name="m", handler="echo"), stats, None) is None
    watch = watch_of(classifier, stats, None)
    assert watch is not None
    (job,) = jobs(1)
    job.version = "7"
    for value in ({"labels": [{"score": 0.8}, {"score": 0.2}]}, {"labels": []}, None, [1]):
        watch(job, value, b"")
    confidence = stats.version("7").confidence
    assert confidence is not None
    assert (confidence.counts, confidence.total) == ([0, 0, 0, 1, 0, 0], 0.8)


def test_what_is_no_score_is_none() -> None:
    odd: list[Any] = ["", {"labels": 1}, {"labels": [0.5]}, {"labels": [{"score": float("nan")}]}]
    odd += [{"labels": [{"score": True}]}, {"labels": [{"score": "0.5"}]}, {"labels": {}}]
    assert [first_score(one) for one in odd] == [None] * len(odd)
