"""The circuit breaker's rules, with clock and counters passed in."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.overload.breaker import Breaker, Policy, Reading, Record, State
from common.settings import Settings

POLICY = Policy(
    failures=5,
    share=0.5,
    least_jobs=20,
    window_ms=30_000,
    open_ms=10_000,
    open_max_ms=60_000,
    probes=3,
)


@dataclass
class Replica:
    """A breaker with its record, and counters that a test moves."""

    policy: Policy = POLICY
    record: Record = field(default_factory=Record)
    now_ms: int = 1_000_000
    succeeded: int = 100
    failed: int = 10
    breaker: Breaker = field(init=False)

    def __post_init__(self) -> None:
        self.breaker = Breaker(self.policy)
        self.see()

    def see(
        self,
        succeeded: int = 0,
        failed: int = 0,
        after_ms: int = 1000,
        unloadable: bool = False,
        barred: str = "",
        **by_tenant: int,
    ) -> State:
        """`failed` are nobody's, beside those of tenants."""
        self.now_ms += after_ms
        self.succeeded += succeeded
        self.failed += failed + sum(by_tenant.values())
        reading = Reading(
            self.now_ms, self.succeeded, self.failed, unloadable, by_tenant, barred.split()
        )
        self.record = self.breaker.observe(self.record, reading) or self.record
        return self.record.state

    def opened(self) -> Replica:
        assert self.see(failed=5) is State.OPEN
        return self


def test_failures_in_a_row_open_it() -> None:
    replica = Replica()
    assert replica.see(failed=2) is State.CLOSED
    assert replica.see(failed=2) is State.CLOSED
    assert replica.see(failed=1) is State.OPEN


def test_a_success_between_them_begins_anew() -> None:
    replica = Replica()
    for _ in range(20):
        assert replica.see(failed=4) is State.CLOSED
        assert replica.see(succeeded=50) is State.CLOSED


def test_half_of_the_jobs_of_a_window_open_it() -> None:
    replica = Replica()
    seen = [replica.see(succeeded=2, failed=2) for _ in range(5)]
    assert seen == [State.CLOSED] * 4 + [State.OPEN]


def test_failures_before_the_window_are_forgotten() -> None:
    replica = Replica()
    replica.see(succeeded=5, failed=9)
    replica.see(after_ms=30_000)
    assert replica.see(succeeded=6, failed=4) is State.CLOSED


def test_failures_count_for_more_only_with_a_new_one() -> None:
    replica = Replica()
    replica.see(succeeded=60)
    assert replica.see(succeeded=12, failed=12, after_ms=15_000) is State.CLOSED
    assert replica.see(after_ms=16_000) is State.CLOSED, "only successes left the window"
    assert replica.see(failed=1) is State.OPEN


def test_what_happened_before_we_looked_does_not_count() -> None:
    assert Replica(failed=1_000_000).record.state is State.CLOSED


def test_after_a_while_it_half_opens_and_a_success_closes_it() -> None:
    replica = Replica().opened()
    assert replica.see(after_ms=9_000) is State.OPEN
    assert replica.see(after_ms=1_000) is State.HALF_OPEN
    assert replica.see() is State.HALF_OPEN
    assert replica.see(succeeded=1) is State.CLOSED
    assert replica.see(failed=4) is State.CLOSED, "what was before is forgotten"


def test_a_failed_probe_opens_it_for_twice_as_long_up_to_a_bound() -> None:
    replica = Replica().opened()
    lasted = []
    for _ in range(5):
        lasted.append(replica.record.until_ms - replica.record.since_ms)
        replica.see(after_ms=lasted[-1])
        assert replica.see(failed=1) is State.OPEN
    assert lasted == [10_000, 20_000, 40_000, 60_000, 60_000]


def test_a_recovery_that_lasts_makes_the_next_opening_short_again() -> None:
    replica = Replica().opened()
    replica.see(after_ms=10_000)
    assert replica.see(succeeded=1) is State.CLOSED
    replica.see(succeeded=1, after_ms=60_000)
    assert replica.opened().record.openings == 1


def test_a_recovery_that_does_not_last_makes_it_longer() -> None:
    replica = Replica().opened()
    replica.see(after_ms=10_000)
    replica.see(succeeded=1)
    assert replica.opened().record.openings == 2


def test_probes_that_nobody_sent_are_offered_again() -> None:
    replica = Replica().opened()
    replica.see(after_ms=10_000)
    first = replica.record
    assert replica.see(after_ms=10_000) is State.HALF_OPEN
    assert replica.record.since_ms > first.since_ms, "a new round, with new probes"


def test_a_model_that_no_worker_can_load_opens_it_until_one_can() -> None:
    replica = Replica()
    assert replica.see(unloadable=True) is State.OPEN
    assert replica.see() is State.HALF_OPEN
    assert replica.see(succeeded=1) is State.CLOSED


def test_probes_let_the_workers_try_to_load_it_again() -> None:
    replica = Replica()
    replica.see(unloadable=True)
    assert replica.see(unloadable=True, after_ms=10_000) is State.HALF_OPEN
    assert replica.see(unloadable=True) is State.HALF_OPEN
    assert replica.see(unloadable=True, after_ms=10_000) is State.OPEN
    assert replica.record.openings == 2


def test_without_failures_to_count_there_is_no_breaker() -> None:
    replica = Replica(policy=Policy(0, 0.5, 1, 1000, 1000, 1000, 1))
    assert replica.see(failed=1000, unloadable=True) is State.CLOSED


def test_switched_off_while_open_it_closes() -> None:
    replica = Replica().opened()
    off = Replica(policy=Policy(0, 0.5, 1, 1000, 1000, 1000, 1), record=replica.record)
    assert off.record.state is State.CLOSED


def test_counters_that_began_anew_are_no_failures() -> None:
    replica = Replica()
    replica.failed = replica.succeeded = 0
    assert replica.see() is State.CLOSED
    assert replica.see(failed=4) is State.CLOSED


def test_one_tenants_failures_open_it_to_nobody_else() -> None:
    replica = Replica()
    for _ in range(20):
        assert replica.see(acme=14) is State.CLOSED
    assert replica.see(beta=2) is State.CLOSED
    assert replica.see(beta=1) is State.OPEN, "both fail, and each counts for half at most"


def test_failures_without_a_tenant_count_as_ever() -> None:
    replica = Replica()
    assert replica.see(failed=2, acme=14) is State.CLOSED
    assert replica.see(failed=1) is State.OPEN


def test_the_share_of_one_tenant_in_the_window_is_half_of_what_is_needed() -> None:
    replica = Replica()
    assert replica.see(succeeded=20, acme=100) is State.CLOSED
    assert replica.see(succeeded=1, acme=10, beta=30) is State.CLOSED
    assert replica.see(succeeded=1, beta=60) is State.OPEN


def test_a_failure_seen_by_tenant_before_it_is_in_the_total_counts_once() -> None:
    replica = Replica()
    for _ in range(10):
        replica.failed -= 4  # the total is read first
        assert replica.see(acme=4) is State.CLOSED
        assert replica.see(failed=4) is State.CLOSED


def test_the_failures_of_a_tenant_that_is_refused_anyway_end_no_probe() -> None:
    replica = Replica().opened()
    replica.see(after_ms=10_000)
    assert replica.see(acme=3, barred="acme") is State.HALF_OPEN
    assert replica.see(succeeded=1, acme=3, barred="acme") is State.CLOSED
    replica.see(failed=5)
    replica.see(after_ms=20_000)
    assert replica.see(acme=1, beta=1, barred="acme") is State.OPEN


@pytest.mark.parametrize("text", ["", "open", "open a b", "ajar 1 2 3 4 5 0", "open 1 2 3 4 5 6 7"])
def test_what_is_not_a_record_is_a_closed_one(text: str) -> None:
    assert Record.parse(text) == Record()


def test_the_settings_of_the_house_are_a_policy() -> None:
    assert Policy.of(Settings()).open_for_ms(100) == 300_000


READINGS = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.integers(0, 30),
        st.integers(1, 20_000),
        st.sampled_from([False] * 9 + [True]),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(READINGS)
def test_it_only_goes_the_ways_there_are(readings: list[tuple[int, int, int, bool]]) -> None:
    replica = Replica()
    for succeeded, failed, after_ms, unloadable in readings:
        before = replica.record
        after = replica.see(succeeded, failed, after_ms, unloadable)
        steps = (before.state, after)
        assert steps not in {
            (State.CLOSED, State.HALF_OPEN),
            (State.OPEN, State.CLOSED),
        }
        if steps == (State.CLOSED, State.OPEN):
            assert failed or unloadable
        if steps == (State.OPEN, State.HALF_OPEN) and not before.unloadable:
            assert replica.now_ms >= before.until_ms
        if steps == (State.HALF_OPEN, State.CLOSED):
            assert succeeded
            assert not failed
        if after is State.OPEN:
            assert replica.record.until_ms - replica.record.since_ms <= POLICY.open_max_ms
        assert Record.parse(replica.record.text()) == replica.record


@settings(deadline=None)
@given(READINGS)
def test_a_model_that_works_again_is_always_served_again(
    readings: list[tuple[int, int, int, bool]],
) -> None:
    replica = Replica()
    for reading in readings:
        replica.see(*reading)
    for _ in range(3):
        replica.see(succeeded=1, after_ms=60_000)
    assert replica.record.state is State.CLOSED


@settings(deadline=None)
@given(READINGS)
def test_two_replicas_that_share_a_record_take_turns_without_a_quarrel(
    readings: list[tuple[int, int, int, bool]],
) -> None:
    one, other = Replica(), Replica()
    changes = 0
    for reading in readings:
        before = one.record
        one.see(*reading)
        changed = one.record != before
        other.record = one.record  # as it is after the one's trip
        other.see(*reading)
        assert not changed or other.record == one.record, "nobody moves on what was just moved"
        one.record = other.record
        changes += changed
    assert changes <= len(readings)
