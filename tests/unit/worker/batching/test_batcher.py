"""The batcher's rules, with a clock that is passed in."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.batching.batcher import Batch, Batcher, BatchLimits, BatchTime

BASE, RATE = 0.005, 0.0001
"""Seconds a batch takes, and seconds for each unit of padded cost."""


def make(
    max_batch: int = 4,
    max_wait_ms: float = 10,
    max_cost: float | None = None,
    target_latency_ms: float | None = None,
) -> Batcher[int]:
    return Batcher(BatchLimits(max_batch, max_wait_ms, max_cost, target_latency_ms))


def taught(batcher: Batcher[int], base: float = BASE, rate: float = RATE) -> Batcher[int]:
    for cost in range(10, 1000, 20):
        batcher.observe(cost, base + rate * cost)
    return batcher


def take_all(batcher: Batcher[int], now: float) -> list[Batch[int]]:
    batches = []
    while batch := batcher.next_batch(now, device_idle=True):
        batches.append(batch)
    return batches


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
    assert batcher.ready_at() == 0.010
    batcher.add(2, 1, now=0.0)
    assert batcher.ready_at() == 0.0
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


def test_what_is_not_padded_costs_its_sum_and_leaves_in_full_batches() -> None:
    limits = BatchLimits(4, 5.0, max_cost=100.0, pads=False)
    batcher: Batcher[str] = Batcher(limits)
    for name, cost in (("a", 1.0), ("b", 90.0), ("c", 8.0), ("d", 2.0)):
        batcher.add(name, cost, now=0.0)
    batch = batcher.next_batch(0.0, device_idle=True)
    assert sorted(batch) == ["a", "c", "d"]  # with b it would cost 101
    assert batch.padded_cost == 11.0
    assert batch.only(lambda name: name != "c", lambda name: 2.0).padded_cost == 4.0


def test_unlike_items_are_not_padded_beyond_what_another_batch_costs() -> None:
    batcher = taught(make(max_batch=32), base=0.005, rate=0.0001)  # a batch costs as much as 50
    for item in range(32):
        batcher.add(item, 60 if item % 2 else 4, now=0.0)
    assert [len(batch) for batch in take_all(batcher, 0.0)] == [16, 16]


def test_unlike_items_share_a_batch_where_batches_are_dear() -> None:
    batcher = taught(make(max_batch=32), base=1.0, rate=0.0001)  # as much as 10,000
    for item in range(32):
        batcher.add(item, 60 if item % 2 else 4, now=0.0)
    assert [len(batch) for batch in take_all(batcher, 0.0)] == [32]


def test_the_higher_band_goes_first_and_lower_ones_fill_the_batch_up() -> None:
    batcher = make(max_batch=4)
    for item, priority in enumerate((3, 1, 3, 0, 1, 0)):
        batcher.add(item, 1, now=0.0, priority=priority)
    assert take_all(batcher, 0.0) == [[1, 3, 4, 5], [0, 2]]


@pytest.mark.parametrize("urgent_neighbours", [False, True])
def test_a_low_band_is_not_starved_by_an_endless_high_one(urgent_neighbours: bool) -> None:
    batcher = taught(make(max_batch=2))
    batcher.add(-1, 1, now=0.0, priority=3)
    batcher.add(-2, 1, now=0.0, priority=3)
    for turn in range(8):
        now = float(turn)
        for item in range(4):
            deadline = now if urgent_neighbours else None
            batcher.add(item, 1, now=now, priority=0, deadline=deadline)
        batch = batcher.next_batch(now, device_idle=True)
        assert (batch == [-1, -2]) == (turn == 7)


def test_a_batch_leaves_early_for_a_deadline_and_takes_that_item_along() -> None:
    batcher = taught(make(max_batch=8, max_wait_ms=1000))
    batcher.add(1, 1, now=0.0, priority=0)
    batcher.add(2, 1, now=0.0, priority=2, deadline=0.5, group="other")
    ready_at = batcher.ready_at()
    assert ready_at is not None
    assert 0.4 < ready_at < 0.5 - BASE
    assert batcher.next_batch(ready_at - 0.001, device_idle=False) == []
    assert batcher.next_batch(ready_at, device_idle=False) == [2]
    assert batcher.ready_at() == 1.0


def test_a_batch_is_cut_so_that_its_deadline_can_be_kept() -> None:
    batcher = taught(make(max_batch=100))
    for item in range(100):
        batcher.add(item, 10, now=0.0, deadline=0.055)
    batch = batcher.next_batch(0.0, device_idle=True)
    assert 40 <= len(batch) <= 50
    assert BASE + RATE * batch.padded_cost <= 0.055


def test_a_group_that_fills_a_batch_does_not_drag_another_along() -> None:
    batcher = make(max_batch=2)
    batcher.add(1, 1, now=0.0, group="a")
    batcher.add(2, 1, now=0.0, group="b")
    batcher.add(3, 1, now=0.0, group="b")
    assert batcher.next_batch(0.0, device_idle=False) == [2, 3]
    assert batcher.next_batch(0.0, device_idle=False) == []


def test_equal_keys_run_once_and_count_once() -> None:
    batcher = make(max_batch=2)
    for item, key in enumerate("abac"):
        batcher.add(item, 5, now=0.0, key=key)
    assert len(batcher) == 4
    batch = batcher.next_batch(0.0, device_idle=True)
    assert batch == [0, 2, 1]
    assert batch.runs() == [[0, 2], [1]]
    assert batch.padded_cost == 10
    assert batcher.next_batch(0.0, device_idle=True).runs() == [[3]]


def test_an_equal_key_does_not_join_a_batch_that_has_left() -> None:
    batcher = make()
    batcher.add(1, 5, now=0.0, key="a")
    assert batcher.next_batch(0.0, device_idle=True) == [1]
    batcher.add(2, 5, now=0.0, key="a")
    assert batcher.next_batch(0.0, device_idle=True) == [2]


def test_a_shared_input_has_the_most_urgent_band_and_deadline_of_its_items() -> None:
    batcher = make(max_batch=1, max_wait_ms=1000)
    batcher.add(1, 5, now=0.0, priority=3, key="a")
    batcher.add(2, 5, now=0.0, priority=1)
    batcher.add(3, 5, now=0.0, priority=0, key="a")
    assert batcher.oldest_arrival() == 0.0
    assert take_all(batcher, 0.0) == [[1, 3], [2]]
    batcher = make(max_wait_ms=1000)
    batcher.add(1, 5, now=0.0, key="a", deadline=0.9)
    batcher.add(2, 5, now=0.0, key="a", deadline=0.2)
    batcher.add(3, 5, now=0.0, key="a", deadline=0.5)
    assert batcher.ready_at() == 0.2
    assert batcher.next_batch(0.2, device_idle=False) == [1, 2, 3]
    batcher.add(4, 5, now=0.2)
    assert batcher.ready_at() == 1.2


def test_who_fills_a_batch_up_from_a_lower_band_is_padded_too() -> None:
    batcher = taught(make(max_batch=10, max_cost=60), base=1.0)
    for item, cost in enumerate((10, 20)):
        batcher.add(item, cost, now=0.0, priority=0)
    for item in range(2, 6):
        batcher.add(item, 10, now=0.0, priority=1)
    assert batcher.next_batch(0.0, device_idle=True) == [0, 1, 2]


def test_a_batch_leaves_early_for_the_latency_target() -> None:
    batcher = taught(make(max_wait_ms=1000, target_latency_ms=200))
    batcher.add(1, 1, now=0.0)
    assert batcher.ready_at() == 0.2 - batcher.time.typical


def test_what_is_drained_comes_oldest_first_and_leaves_nothing_behind() -> None:
    batcher = make()
    for item, cost in enumerate((3, 1, 2)):
        batcher.add(item, cost, now=0.0, group=item % 2, priority=item, deadline=1.0, key=cost)
    assert batcher.take_all() == [0, 1, 2]
    assert (len(batcher), batcher.ready_at(), batcher.oldest_arrival()) == (0, None, None)
    batcher.add(4, 1, now=5.0, key=1)
    assert batcher.next_batch(5.0, device_idle=True) == [4]


def test_the_batch_cap_may_shrink_while_items_wait() -> None:
    batcher = make(max_batch=8)
    for item in range(8):
        batcher.add(item, 1, now=0.0)
    batcher.limits.max_batch = 3
    assert [len(batch) for batch in take_all(batcher, 0.0)] == [3, 3, 2]


# -- what it learns -------------------------------------------------------


def test_batch_time_is_learned_from_noisy_readings_with_outliers() -> None:
    dice, time = random.Random(5), BatchTime()
    time.observe(100, 30.0)  # the first one warms up
    for turn in range(200):
        cost = dice.uniform(50, 2000)
        seconds = (BASE + RATE * cost) * dice.lognormvariate(0, 0.05)
        time.observe(cost, seconds * (20 if turn % 50 == 25 else 1))
    assert time.seconds(1000) == pytest.approx(BASE + RATE * 1000, rel=0.2)
    assert time.seconds(time.affordable(0.1)) == pytest.approx(0.1)


def test_the_first_batch_warms_up_and_teaches_nothing() -> None:
    cold, warm = BatchTime(), BatchTime()
    cold.observe(100, 30.0)
    warm.observe(100, 0.001)
    for cost in range(100, 300, 10):
        for time in (cold, warm):
            time.observe(cost, BASE + RATE * cost)
    assert cold.seconds(200) == warm.seconds(200) == pytest.approx(BASE + RATE * 200)


def test_time_that_grows_faster_than_cost_is_not_predicted_below_zero() -> None:
    time = BatchTime()
    for cost in range(100, 1000, 20):
        time.observe(cost, 1e-6 * cost * cost)
    assert time.seconds(0) == time.overhead == 0
    assert time.seconds(500) > 0


def test_batch_time_follows_a_device_that_got_slower() -> None:
    time = BatchTime()
    for turn in range(300):
        cost = 100 + turn % 10 * 50
        time.observe(cost, (BASE + RATE * cost) * (1 if turn < 100 else 10))
    assert time.seconds(300) == pytest.approx(10 * (BASE + RATE * 300), rel=0.1)


def test_batches_of_one_cost_are_predicted_and_scaled_in_proportion() -> None:
    time = BatchTime()
    for _ in range(20):
        time.observe(64, 0.128)
    assert time.seconds(64) == pytest.approx(0.128)
    assert time.seconds(32) == pytest.approx(0.064)
    assert time.overhead is None


@given(readings=st.lists(st.tuples(st.floats(0, 1e7), st.floats(0, 1e3)), max_size=60))
def test_predictions_are_never_negative_and_grow_with_cost(
    readings: list[tuple[float, float]],
) -> None:
    time = BatchTime()
    for cost, seconds in readings:
        time.observe(cost, seconds)
    assert 0 <= time.seconds(0) <= time.seconds(1) <= time.seconds(1e6)
    assert time.overhead is None or time.overhead >= 0


# -- properties -----------------------------------------------------------


@dataclass(frozen=True)
class Job:
    arrived: float
    cost: int
    group: int = 0
    priority: int = 0
    key: int | None = None
    wants_by: float | None = None


caps = {"max_batch": st.integers(1, 9), "max_cost": st.none() | st.integers(1, 200)}
plain_jobs = st.lists(st.builds(Job, st.floats(0, 1), st.integers(1, 60)), min_size=1, max_size=60)
jobs_of_all_kinds = st.lists(
    st.builds(
        Job,
        st.floats(0, 1),
        st.integers(1, 60),
        st.integers(0, 2),
        st.integers(0, 3),
        st.none() | st.integers(0, 5),
        st.none() | st.floats(0, 3),
    ),
    min_size=1,
    max_size=60,
).map(lambda jobs: sorted(jobs, key=lambda job: job.arrived))


def add(batcher: Batcher[int], index: int, job: Job) -> None:
    batcher.add(
        index,
        job.cost,
        job.arrived,
        group=job.group,
        priority=job.priority,
        deadline=job.wants_by,
        key=job.key,
    )


def check(batch: Batch[int], jobs: list[Job], limits: BatchLimits) -> None:
    """No cap is passed, groups do not mix, equal keys share a run and nothing else does."""
    runs = batch.runs()
    assert [item for run in runs for item in run] == batch
    assert len(runs) <= limits.max_batch
    assert batch.padded_cost == max(jobs[run[0]].cost for run in runs) * len(runs)
    assert limits.max_cost is None or len(runs) == 1 or batch.padded_cost <= limits.max_cost
    assert len({jobs[item].group for item in batch}) == 1
    keys = [jobs[run[0]].key for run in runs if jobs[run[0]].key is not None]
    assert len(keys) == len(set(keys))
    for run in runs:
        assert len(run) == 1 or jobs[run[0]].key is not None
        assert len({jobs[item].key for item in run}) == 1


@given(jobs=jobs_of_all_kinds, learned=st.booleans(), **caps)
def test_every_item_leaves_once_within_the_caps(
    jobs: list[Job], learned: bool, max_batch: int, max_cost: int | None
) -> None:
    batcher = make(max_batch, 10, max_cost, target_latency_ms=50)
    if learned:
        taught(batcher)
    for index, job in enumerate(jobs):
        add(batcher, index, job)
    assert len(batcher) == len(jobs)
    batches = take_all(batcher, now=1.0)
    for batch in batches:
        check(batch, jobs, batcher.limits)
    assert sorted(item for batch in batches for item in batch) == list(range(len(jobs)))
    assert (len(batcher), batcher.ready_at(), batcher.take_all()) == (0, None, [])


@given(
    jobs=jobs_of_all_kinds,
    max_wait_ms=st.floats(0, 300),
    target_ms=st.none() | st.floats(1, 300),
    learned=st.booleans(),
    **caps,
)
def test_nobody_over_waits_when_asked_at_ready_at(
    jobs: list[Job],
    max_wait_ms: float,
    target_ms: float | None,
    learned: bool,
    max_batch: int,
    max_cost: int | None,
) -> None:
    batcher = make(max_batch, max_wait_ms, max_cost, target_ms)
    if learned:
        taught(batcher)
    left: list[int] = []

    def poll(now: float) -> None:
        while batch := batcher.next_batch(now, device_idle=False):
            check(batch, jobs, batcher.limits)
            for item in batch:
                assert now <= jobs[item].arrived + max_wait_ms / 1000
            left.extend(batch)
        assert (ready_at := batcher.ready_at()) is None or ready_at > now

    for index, job in enumerate(jobs):
        while (ready_at := batcher.ready_at()) is not None and ready_at <= job.arrived:
            poll(ready_at)
        add(batcher, index, job)
        poll(job.arrived)
    while (ready_at := batcher.ready_at()) is not None:
        poll(ready_at)
    assert sorted(left) == list(range(len(jobs)))


@given(jobs=jobs_of_all_kinds, **caps)
def test_of_equal_cost_band_and_group_the_older_never_leaves_later(
    jobs: list[Job], max_batch: int, max_cost: int | None
) -> None:
    jobs = [Job(job.arrived, job.cost % 4 + 1, job.group, job.priority) for job in jobs]
    batcher = make(max_batch, 10, max_cost)
    for index, job in enumerate(jobs):
        add(batcher, index, job)
    left_with = {
        item: number for number, batch in enumerate(take_all(batcher, 1.0)) for item in batch
    }
    last: dict[tuple[int, int, int], int] = {}
    for index, job in enumerate(jobs):
        kind = (job.cost, job.priority, job.group)
        assert last.get(kind, 0) <= left_with[index]
        last[kind] = left_with[index]


@given(jobs=jobs_of_all_kinds, **caps)
def test_one_in_eight_batches_has_the_oldest_and_the_others_the_oldest_of_the_highest_band(
    jobs: list[Job], max_batch: int, max_cost: int | None
) -> None:
    jobs = [Job(job.arrived, job.cost, job.group, job.priority) for job in jobs]
    batcher = make(max_batch, 10, max_cost)
    for index, job in enumerate(jobs):
        add(batcher, index, job)
    waiting, passed_over = set(range(len(jobs))), 0
    for batch in take_all(batcher, 1.0):
        lead = min(waiting, key=lambda index: (jobs[index].priority, index))
        assert (min(waiting) if passed_over == 7 else lead) in batch
        passed_over = 0 if min(waiting) in batch else passed_over + 1
        waiting -= set(batch)


@given(jobs=plain_jobs, target_ms=st.floats(6, 200), **caps)
def test_the_latency_target_is_kept_where_it_can_be(
    jobs: list[Job], target_ms: float, max_batch: int, max_cost: int | None
) -> None:
    jobs.sort(key=lambda job: job.arrived)
    batcher = taught(make(max_batch, 1e6, max_cost, target_ms))
    time, now = batcher.time, jobs[0].arrived
    for index, job in enumerate(jobs):
        add(batcher, index, job)
        now = max(now, job.arrived)
        batch = batcher.next_batch(now, device_idle=True)
        began, oldest = now, jobs[min(batch)]
        now += time.seconds(batch.padded_cost)
        if began - oldest.arrived + time.seconds(oldest.cost) <= target_ms / 1000:
            assert now - oldest.arrived <= target_ms / 1000 + 1e-9


@pytest.mark.parametrize(("now", "size"), [(0.0, 2), (0.005, 1)])
def test_a_batch_is_cut_so_that_its_latency_target_can_be_kept(now: float, size: int) -> None:
    batcher = taught(make(max_batch=8, target_latency_ms=20))
    for item in range(4):
        batcher.add(item, 60, now=0.0)
    # 15 ms are left for the cost at first, of which each unit takes 0.1 ms.
    assert batcher.next_batch(now, device_idle=True) == list(range(size))


def test_a_lost_latency_target_does_not_shrink_batches() -> None:
    batcher = taught(make(max_batch=8, target_latency_ms=20))
    for item in range(8):
        batcher.add(item, 10, now=0.0)
    assert len(batcher.next_batch(1.0, device_idle=True)) == 8


def test_without_readings_the_latency_target_cuts_nothing() -> None:
    batcher = make(max_batch=8, target_latency_ms=1)
    for item in range(8):
        batcher.add(item, 10, now=0.0)
    assert len(batcher.next_batch(0.0, device_idle=True)) == 8


def test_a_tenants_first_job_leads_the_next_batch_however_many_others_wait() -> None:
    batcher = make(max_batch=4)
    for item in range(40):
        batcher.add(item, 1, now=0.0, tenant="heavy")
    assert batcher.next_batch(0.0, device_idle=True) == [0, 1, 2, 3]
    batcher.add(100, 1, now=1.0, tenant="light")
    assert 100 in batcher.next_batch(1.0, device_idle=True)


def test_a_light_tenant_with_dear_items_is_not_passed_over_for_cheap_company() -> None:
    batcher = taught(make(max_batch=4))
    for item in range(40):
        batcher.add(item, 10, now=0.0, tenant="heavy")
    assert batcher.next_batch(0.0, device_idle=True) == [0, 1, 2, 3]
    batcher.add(100, 900, now=1.0, tenant="light")
    assert batcher.next_batch(1.0, device_idle=True) == [100]


def test_tenants_who_send_without_end_share_alike() -> None:
    batcher = make(max_batch=6)
    for tenant in ("a", "b", "c"):
        for item in range(20):
            batcher.add(ord(tenant) * 100 + item, 1, now=0.0, tenant=tenant)
    for _ in range(5):
        batch = batcher.next_batch(0.0, device_idle=True)
        assert [sum(item // 100 == ord(t) for item in batch) for t in "abc"] == [2, 2, 2]


def test_who_paused_does_not_get_what_it_did_not_use() -> None:
    batcher = make(max_batch=2)
    batcher.add(1, 1, now=0.0, tenant="paused")
    for item in range(100, 140):
        batcher.add(item, 1, now=0.0, tenant="busy")
    for _ in range(10):
        batcher.next_batch(0.0, device_idle=True)
    for item in range(2, 12):
        batcher.add(item, 1, now=1.0, tenant="paused")
    later = [batcher.next_batch(1.0, device_idle=True) for _ in range(6)]
    theirs = [sum(item >= 100 for item in batch) for batch in later]
    assert sum(theirs) >= 5, "both were served by turns"


def test_tenants_do_not_change_the_order_of_bands() -> None:
    batcher = make(max_batch=2)
    for item in range(4):
        batcher.add(item, 1, now=0.0, priority=3, tenant="new")
    for item in range(10, 14):
        batcher.add(item, 1, now=0.0, priority=0, tenant="old")
    assert take_all(batcher, 0.0) == [[10, 11], [12, 13], [0, 1], [2, 3]]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), min_size=1, max_size=80))
def test_each_tenants_like_items_leave_in_the_order_they_came(sent: list[tuple[str, int]]) -> None:
    batcher = make(max_batch=3)
    for item, (tenant, _) in enumerate(sent):
        batcher.add(item, 1, now=0.0, tenant=tenant)
        if item % 7 == 6:
            batcher.next_batch(0.0, device_idle=True)
    left = [item for batch in take_all(batcher, 0.0) for item in batch]
    for tenant in "abc":
        mine = [item for item in left if sent[item][0] == tenant]
        assert sorted(mine) == mine
    assert len(batcher) == 0
