"""The batcher's rules, with a clock that is passed in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.batcher import Batcher, BatchLimits


def make(
    max_batch: int = 4, max_wait_ms: float = 10, max_cost: float | None = None
) -> Batcher[int]:
    return Batcher(BatchLimits(max_batch, max_wait_ms, max_cost))


def test_an_idle_device_gets_what_there_is_at_once() -> None:
    batcher = make()
    batcher.add(1, 1, now=0.0)
    assert batcher.next_batch(0.0, device_idle=True) == [1]


def test_a_busy_device_waits_until_the_oldest_is_due() -> None:
    batcher = make()
    batcher.add(1, 1, now=0.0)
    assert batcher.next_batch(0.009, device_idle=False) == []
    assert batcher.next_batch(0.010, device_idle=False) == [1]


def test_a_full_batch_leaves_though_the_device_is_busy() -> None:
    batcher = make(max_batch=2)
    batcher.add(1, 1, now=0.0)
    batcher.add(2, 1, now=0.0)
    assert batcher.next_batch(0.0, device_idle=False) == [1, 2]


def test_the_oldest_leads_and_its_like_go_with_it() -> None:
    batcher = make(max_batch=3)
    for item, cost in enumerate((50, 3, 48, 4, 52, 5)):
        batcher.add(item, cost, now=0.0)
    assert batcher.next_batch(0.0, device_idle=True) == [0, 2, 4]
    assert batcher.next_batch(0.0, device_idle=True) == [1, 3, 5]


def test_a_batch_is_bounded_by_its_padded_cost() -> None:
    batcher = make(max_batch=10, max_cost=20)
    for item in range(10):
        batcher.add(item, 5, now=0.0)
    assert len(batcher.next_batch(0.0, device_idle=True)) == 4


def test_one_item_above_the_cost_cap_still_runs_alone() -> None:
    batcher = make(max_cost=20)
    batcher.add(1, 100, now=0.0)
    batcher.add(2, 1, now=0.0)
    assert batcher.next_batch(0.0, device_idle=True) == [1]


costs = st.lists(st.integers(1, 60), min_size=1, max_size=80)


@given(
    costs=costs, max_batch=st.integers(1, 16), max_cost=st.one_of(st.none(), st.integers(1, 200))
)
def test_every_item_leaves_once_within_the_caps(
    costs: list[int], max_batch: int, max_cost: int | None
) -> None:
    batcher = make(max_batch=max_batch, max_cost=max_cost)
    for item, cost in enumerate(costs):
        batcher.add(item, cost, now=0.0)
    seen: list[int] = []
    while batch := batcher.next_batch(1.0, device_idle=True):
        assert len(batch) <= max_batch
        padded = max(costs[item] for item in batch) * len(batch)
        assert max_cost is None or len(batch) == 1 or padded <= max_cost
        left = set(range(len(costs))) - set(seen)
        assert min(left) in batch, "the oldest is always in the next batch"
        seen += batch
    assert sorted(seen) == list(range(len(costs)))
    assert len(batcher) == 0


@given(
    arrivals=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9)), min_size=1, max_size=30),
    max_wait_ms=st.floats(0, 100),
)
def test_no_item_waits_longer_than_allowed_while_busy(
    arrivals: list[tuple[float, int]], max_wait_ms: float
) -> None:
    batcher = make(max_batch=100, max_wait_ms=max_wait_ms)
    arrivals = sorted(arrivals)
    for item, (now, cost) in enumerate(arrivals):
        batcher.add(item, cost, now)
        ready_at = batcher.ready_at()
        assert ready_at is not None
        assert ready_at <= arrivals[0][0] + max_wait_ms / 1000 + 1e-9
    assert batcher.next_batch(arrivals[0][0] + max_wait_ms / 1000, device_idle=False)
