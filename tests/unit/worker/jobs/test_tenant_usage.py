"""Tenants in the metrics: the busiest by name, few series, and no counter that goes back."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.jobs.tenant_usage import OTHER, TenantUsage

BATCH = st.tuples(
    st.sampled_from([f"t{number}" for number in range(12)] + [OTHER]), st.integers(1, 9)
)


def test_the_busiest_get_names_and_the_others_are_one() -> None:
    usage, now = TenantUsage(2), 0.0
    for round_ in range(5):
        now += 61.0
        usage.used("early", 0.1, 1, now)
        for number in range(50):
            usage.used(f"small-{round_}-{number}", 0.01, 1, now)
        usage.used("large", 9.0, 90, now)
        usage.used("larger", 12.0, 120, now)
    found = {tenant: use.items for tenant, use in usage.items()}
    assert set(found) == {"large", "larger", OTHER}
    assert sum(found.values()) + 1 <= 5 * (1 + 50 + 90 + 120)
    assert found["larger"] > found["large"] > 90


def test_without_names_all_are_others() -> None:
    usage = TenantUsage(0)
    for number in range(1_000):
        usage.used(f"t{number}", 1.0, 2, float(number))
    assert [(tenant, use.items) for tenant, use in usage.items()] == [(OTHER, 2_000)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.lists(BATCH, max_size=120))
def test_no_series_goes_back_and_nothing_is_counted_twice(
    most: int, batches: list[tuple[str, int]]
) -> None:
    usage, highest, now = TenantUsage(most), Counter[str](), 0.0
    total = 0
    for tenant, items in batches:
        now += 20.0
        usage.used(tenant, items / 10, items, now)
        total += items
        found = {name: use.items for name, use in usage.items()}
        assert len(found) <= most + 1
        for name, count in found.items():
            assert count >= highest[name]
            highest[name] = count
    assert sum(highest.values()) <= total
