"""Which of several models a job is for: by its id alone, and by nothing that moves."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.catalog import Target

ids = [Random(seed).randbytes(8).hex() for seed in range(4000)]


def picked(target: Target, there: set[str] | None = None) -> dict[str, str]:
    loaded = set(target.shares) if there is None else there
    return {one: target.pick("m", one, "", loaded) for one in ids}


def test_jobs_are_picked_by_share_and_always_alike() -> None:
    target = Target({"m@1": 0.95, "m@2": 0.05})
    found = picked(target)
    assert found == picked(Target({"m@2": 0.05, "m@1": 0.95})), "the order does not matter"
    assert abs(Counter(found.values())["m@2"] / len(ids) - 0.05) < 0.01


def test_a_share_that_grows_keeps_its_jobs() -> None:
    small, large = picked(Target({"a": 0.9, "b": 0.1})), picked(Target({"a": 0.6, "b": 0.4}))
    assert all(large[one] == "b" for one in ids if small[one] == "b")


def test_the_share_of_one_that_is_not_loaded_goes_to_the_others() -> None:
    target = Target({"a": 0.5, "b": 0.3, "c": 0.2})
    whole, without = picked(target), picked(target, {"a", "b"})
    assert all(without[one] == whole[one] for one in ids if whole[one] != "c")
    counts = Counter(without.values())
    assert abs(counts["a"] / len(ids) - 0.625) < 0.03
    assert set(picked(target, {"c"}).values()) == {"c"}, "whoever is left has all"


def test_a_sticky_alias_goes_by_the_tenant_and_by_the_id_without_one() -> None:
    target, there = Target({"a": 0.5, "b": 0.5}, sticky=True), {"a", "b"}
    for tenant in ("acme", "zeta", "omega"):
        assert len({target.pick("m", one, tenant, there) for one in ids}) == 1
    assert {target.pick("m", "1", one, there) for one in ids} == there
    assert {target.pick("m", one, "", there) for one in ids} == there
    others = [
        one for one in ids if target.pick("m", "", one, there) != target.pick("n", "", one, there)
    ]
    assert len(others) > 1000, "aliases are shared out independently"


def test_shares_move() -> None:
    target = Target.whole("a").moved("b", 0.2, None)
    assert target == Target({"a": 0.8, "b": 0.2})
    assert target.moved("b", 0.0, None) == Target.whole("a")
    assert target.moved("b", 1.0, None).model == "b"
    three = target.moved("c", 0.5, True)
    assert (three.shares, three.sticky) == ({"a": 0.4, "b": 0.1, "c": 0.5}, True)
    assert three.moved("c", 0.6, None).sticky
    with pytest.raises(ValueError, match="has all jobs"):
        Target.whole("a").moved("a", 0.5, None)


@given(
    st.dictionaries(st.text(min_size=1), st.floats(0.01, 1), min_size=1, max_size=5), st.booleans()
)
def test_what_is_dumped_is_loaded(weights: dict[str, float], sticky: bool) -> None:
    total = sum(weights.values())
    target = Target({name: weight / total for name, weight in weights.items()}, sticky)
    if not target.is_split and target.model.startswith("{"):
        return  # no model may be called so
    found = Target.load(target.dump())
    assert found is not None
    assert found.shares == target.shares
    assert found.sticky == (target.is_split and sticky)


@pytest.mark.parametrize(
    "text", ["{", "{}", '{"shares": {"a": 2}}', '{"shares": [1]}', '{"shares": {}}']
)
def test_what_is_no_target_is_none(text: str) -> None:
    assert Target.load(text) is None
