"""How far a run is, in numbers."""

from __future__ import annotations

from api.cli.enqueue.progress import Count


def test_the_pace_is_of_the_last_ten_seconds() -> None:
    count = Count(total=100)
    count.per_second(0.0)
    count.done = 10
    assert count.per_second(5.0) == 2.0
    count.done = 20
    assert count.per_second(20.0) == 10 / 15, "nothing was seen between: no jump at its end"
    count.done = 40
    view = count.view(25.0)
    assert (view["per_second"], view["eta_seconds"]) == (1.5, 40.0), "10 to 40 from 5 s on"


def test_without_a_total_there_is_no_end_in_sight() -> None:
    count = Count()
    count.per_second(0.0)
    count.done = 5
    assert count.view(1.0)["eta_seconds"] is None
