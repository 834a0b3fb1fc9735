"""What a courier counts of its batches: bounded, and never back."""

from __future__ import annotations

from collections.abc import Mapping

from common.batches.records import BatchStatus
from worker.courier.batches.counts import BatchCounts


def told(counts: BatchCounts) -> Mapping[tuple[str, ...], float]:
    return {
        tuple(one.labels.values()): one.value
        for family in counts.families()
        for one in family.samples
    }


def test_lines_and_ends_are_counted() -> None:
    counts = BatchCounts(20)
    assert told(counts) == {(one.value,): 0 for one in BatchStatus if one.ended}
    counts.lines("acme", 7, 0)
    counts.lines("acme", 3, 2)
    counts.ended(BatchStatus.COMPLETED)
    assert told(counts)["acme", "succeeded"] == 10
    assert told(counts)["acme", "failed"] == 2
    assert told(counts)["completed",] == 1


def test_tenants_beyond_the_bound_are_counted_together() -> None:
    counts, before = BatchCounts(2), dict[tuple[str, ...], float]()
    for turn in range(3):
        for number in range(50):
            counts.lines(f"t{number}", 1, turn)
            found = told(counts)
            assert all(found[name] >= value for name, value in before.items())
            before = dict(found)
    names = {labels[0] for labels in before if len(labels) == 2}
    assert names == {"t0", "t1", "other"}
    assert before["other", "succeeded"] == 3 * 48
