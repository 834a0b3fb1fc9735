"""What one process makes of a lane's samples: a breaker for the lane, and one per tenant."""

from __future__ import annotations

from collections import Counter

from api.overload.breaker import Policy, Record, State
from api.overload.lane_state import LaneState
from api.overload.shared_breakers import LaneBreakers
from common.settings import Settings

POLICY = Policy.of(Settings())


class Samples:
    """A lane's counters, and the records as Redis would hold them."""

    def __init__(self, **failures: int) -> None:
        self.lane = LaneBreakers(POLICY)
        self.now_ms, self.succeeded = 1_000_000, 0
        self.failures, self.total = Counter(failures), 0
        self.records: dict[str, str] = {}
        self.see()

    def see(
        self, succeeded: int = 0, after_ms: int = 1000, proven: str = "", **failures: int
    ) -> dict[str, State]:
        """The states that are not closed, after one more sample."""
        self.now_ms += after_ms
        self.succeeded += succeeded
        self.failures = self.failures + Counter(failures)
        self.total += sum(failures.values())
        counters = {"succeeded": self.succeeded, "model_failed": self.total}
        state = LaneState(counters=counters, failures=self.failures, breakers=self.records)
        for tenant, record in self.lane.observe(self.now_ms, state, set(proven.split())).items():
            self.records = {**self.records, tenant: record.text()}
        found = {tenant: Record.parse(text).state for tenant, text in self.records.items()}
        return {tenant: state for tenant, state in found.items() if state is not State.CLOSED}


def test_fourteen_failures_of_one_tenant_refuse_that_tenant() -> None:
    assert Samples().see(acme=14) == {"acme": State.OPEN}


def test_what_failed_before_this_process_looked_is_not_new() -> None:
    samples = Samples(acme=14)
    assert samples.see() == {}
    assert samples.see(acme=9) == {}
    assert samples.see(acme=1) == {"acme": State.OPEN}


def test_a_model_that_fails_with_every_tenant_is_refused_to_all() -> None:
    assert Samples().see(acme=5, beta=5) == {"": State.OPEN}


def test_counts_that_began_anew_are_no_failures_of_others() -> None:
    samples = Samples()
    samples.see(acme=4)
    samples.failures = Counter()
    assert samples.see(beta=4) == {}
    assert "" not in samples.see(beta=6)


def test_only_a_tenants_own_success_ends_its_refusal() -> None:
    samples = Samples()
    samples.see(acme=14)
    assert samples.see(succeeded=9, after_ms=9_000) == {"acme": State.OPEN}
    assert samples.see(after_ms=1_000) == {"acme": State.HALF_OPEN}
    assert samples.see(succeeded=9) == {"acme": State.HALF_OPEN}
    assert samples.see(proven="acme") == {}
    assert samples.see(acme=10) == {"acme": State.OPEN}, "it counts from there"


def test_a_probe_that_fails_opens_it_for_longer() -> None:
    samples = Samples()
    samples.see(acme=14)
    samples.see(after_ms=10_000)
    assert samples.see(succeeded=9, acme=1) == {"acme": State.OPEN}
    assert Record.parse(samples.records["acme"]).openings == 2


def test_tenants_that_no_longer_fail_are_forgotten() -> None:
    samples = Samples()
    samples.see(acme=1)
    assert set(samples.lane.breakers) == {"", "acme"}
    samples.failures = Counter()
    samples.see()
    assert set(samples.lane.breakers) == {""}
