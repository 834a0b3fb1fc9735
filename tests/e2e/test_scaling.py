"""KEDA's and the HPA's rules drive real workers from 0 and back, twice, by the demand."""

from __future__ import annotations

from itertools import groupby

import pytest

from tests.support.lanes import LANE, assert_lane_is_empty, assert_one_terminal_record_each
from tests.support.scaled_fleet import MOST, figures, two_loads
from tests.support.stack import Stack


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_replicas_follow_the_demand_from_0_and_back_twice_and_lose_nothing(stack: Stack) -> None:
    fleet, jobs = two_loads(stack, 15, 150)
    print(f"{len(jobs)} jobs, {figures(fleet)}")
    assert stack.states(jobs) == {"succeeded": len(jobs)}
    assert_one_terminal_record_each(stack, jobs)
    assert_lane_is_empty(stack)
    humps = [is_up for is_up, _ in groupby(fleet.readings, lambda one: one.replicas > 0) if is_up]
    assert len(humps) == 2, "it slept between the loads, and not before a load had ended"
    assert 1 < max(one.replicas for one in fleet.readings) <= MOST
    assert {status for status, _ in fleet.ends} == {0}
    lines = (stack.folder / "ledger").read_text().splitlines()
    executed = len(lines)
    assert executed == len(jobs), "no batch was cut and run again"
    stats = stack.stats(LANE)
    assert (stats.get("reaped", 0), stats.get("fenced", 0)) == (0, 0)
