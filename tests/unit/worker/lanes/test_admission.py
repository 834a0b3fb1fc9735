"""Who joins the rows of a generator, and how many jobs are held for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from common.catalog import ModelSpec
from worker.jobs.execution import Execution
from worker.lanes.lane import Lane
from worker.lanes.rows import Rows
from worker.lanes.step import Step

NOW = 1000.0


class House:
    """A lane of a generator with four rows and a memory of 100 tokens."""

    def __init__(self) -> None:
        self.lane = Lane("gen", spec(), result_ttl_seconds=60, look_ahead_jobs=9, max_fetching=8)
        self.rows = rows_of("old")
        self.lane.serve(spec(), self.rows.handler, self.rows)  # type: ignore[arg-type]

    def give(self, name: str, cost: float = 10.0, n: int = 1, **fields: Any) -> Execution:
        """Have one wait, decoded."""
        made = Execution(f"{name}:1".encode(), 1, 0, name, NOW)
        made.item, made.cost = SimpleNamespace(options=SimpleNamespace(n=n)), cost
        made.handler = fields.pop("handler", self.lane.handler)
        for field, value in fields.items():
            setattr(made, field, value)
        self.lane.in_hand[made.tag] = made
        self.lane.waiting += 1
        self.lane.add(made, NOW)
        return made

    def join(self, now: float = NOW) -> list[str] | None:
        """Who joins now; they take their rows. None where there is no step to make."""
        step = self.lane.next_work(now, True)
        if step is None:
            return None
        assert isinstance(step, Step)
        assert step.rows is not None
        for one in step.joining:
            step.rows.took(one.item.options.n, one.cost)
            self.lane.waiting -= 1
        return [one.job_id for one in step.joining]


def spec() -> ModelSpec:
    return ModelSpec(name="gen", handler="tests.support.null_generator:NullGenerator")


def rows_of(name: str) -> Rows:
    handler: Any = SimpleNamespace(slots=4, budget_tokens=100, name=name)
    return Rows(handler, spec())


def test_a_lane_asks_for_free_rows_and_a_few_more_while_it_is_deep() -> None:
    house = House()
    assert house.lane.room() == 4
    house.lane.backlog = 7
    assert house.lane.room() == 8
    house.rows.took(3, 30)
    assert house.lane.room() == 5
    house.lane.waiting = 5
    assert house.lane.room() == 0
    house.lane.starved = True
    assert house.lane.room() == 1, "for a tenant that has none here"


def test_jobs_join_in_order_while_rows_and_tokens_last() -> None:
    house = House()
    for number in range(6):
        house.give(f"job {number}", cost=30)
    assert house.join() == ["job 0", "job 1", "job 2"], "a fourth would hold 120 tokens"
    assert house.join() == [], "those on rows go on"
    house.rows.gave_back(1, 30)
    assert house.join() == ["job 3"]


def test_what_does_not_fit_yet_is_waited_for_and_what_never_will_is_let_through() -> None:
    house = House()
    house.give("small", cost=50)
    house.give("large", cost=80)
    house.give("behind", cost=10)
    assert house.join() == ["small"]
    assert house.join() == [], "the small one behind it would keep it out"
    assert house.lane.oldest() == NOW
    house.rows.gave_back(1, 50)
    assert house.join() == ["large", "behind"]
    house.rows.gave_back(2, 90)
    house.give("never", cost=101)
    assert house.join() == ["never"], "to be told so"


def test_fewer_rows_than_a_job_asks_for_keep_nobody_out_of_an_empty_house() -> None:
    """Steps failed for their number, and only more steps could bring the rows back."""
    house = House()
    house.rows.cap = 2
    house.give("small", cost=50)
    house.give("wide", n=4)
    assert house.join() == ["small"]
    assert house.join() == []
    house.rows.gave_back(1, 50)
    admission = house.lane.admission
    assert admission is not None
    assert admission.can_join(house.lane)
    assert house.join() == ["wide"]


def test_who_is_canceled_while_it_waits_for_room_keeps_nobody_waiting() -> None:
    house = House()
    house.give("small", cost=50)
    large = house.give("large", cost=80)
    house.give("behind", cost=10)
    assert house.join() == ["small"]
    assert house.join() == []
    large.disposition = "lost"
    assert house.join() == ["large", "behind"], "to be let go"


def test_tenants_take_turns_at_rows() -> None:
    house = House()
    for number in range(6):
        house.give(f"a{number}", tenant="a")
    house.give("b", tenant="b")
    joined = house.join()
    assert joined is not None
    assert "b" in joined


def test_a_lane_without_work_or_behind_has_no_step() -> None:
    house = House()
    admission = house.lane.admission
    assert admission is not None
    assert (house.join(), admission.waited(house.lane, NOW)) == (None, None)
    house.give("one")
    assert admission.waited(house.lane, NOW + 3) == 3
    assert house.join() == ["one"]
    house.rows.stepped(NOW + 5)
    assert admission.waited(house.lane, NOW + 6) == 1
    house.rows.behind = True
    assert (house.join(), admission.waited(house.lane, NOW + 6)) == (None, None)


def test_when_an_alias_moves_jobs_run_on_where_they_were_decoded() -> None:
    house = House()
    house.give("on rows")
    assert house.join() == ["on rows"]
    house.give("decoded for the old")
    old, house.rows = house.rows, rows_of("new")
    house.lane.serve(spec(), house.rows.handler, house.rows)  # type: ignore[arg-type]
    house.give("for the new")
    steps = [house.lane.next_work(NOW, True) for _ in range(3)]
    joined = {
        one.job_id: step.rows for step in steps if isinstance(step, Step) for one in step.joining
    }
    assert joined == {"decoded for the old": old, "for the new": house.rows}
    house.lane.in_hand.clear()
    old.gave_back(1, 10)
    house.rows.took(1, 10)
    for _ in range(2):
        step = house.lane.next_work(NOW, True)
        assert isinstance(step, Step)
        assert step.rows is house.rows
