"""What waits to be told: taken together, at once or at a time, and never waited for when closed."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import pytest

from tests.support.stack import wait_until
from tests.unit.worker.generation.bench import Bench
from worker.generation.generation import Generation, Token, generation_of
from worker.generation.rounds import Rounds
from worker.generation.wording import open_texts


def job(*, begun: bool = True, **params: Any) -> Generation:
    bench = Bench()
    [execution] = bench.give("one", stream=True, **params)
    made = generation_of(bench.lane, execution)
    if begun:
        open_texts(made)
    return made


def in_an_hour() -> float:
    return time.monotonic() + 3_600


def said(generation: Generation) -> list[Token]:
    return [Token(generation, 0, 1, None, None, ())]


def test_all_that_waits_is_taken_together_at_its_time() -> None:
    one, rounds = job(), Rounds(100)
    for _ in range(3):
        rounds.offer(said(one), [])
    rounds.offer((), ())
    assert len(rounds.take(-math.inf, anyway=False)) == 3, "what says nothing is no round"
    assert rounds.waiting == 0
    assert rounds.take(-math.inf, anyway=True) == []


@pytest.mark.parametrize(
    ("urgent", "ends"), [({"begun": False}, False), ({"stop": ["x"]}, False), ({}, True)]
)
def test_first_words_stop_strings_and_ends_do_not_wait(urgent: dict[str, Any], ends: bool) -> None:
    plain, other, rounds = job(), job(**urgent), Rounds(100)
    rounds.offer(said(plain), [])
    taken: list[int] = []
    thread = threading.Thread(
        target=lambda: taken.append(len(rounds.take(in_an_hour(), anyway=True))), daemon=True
    )
    thread.start()
    rounds.offer(said(other), [other] if ends else [])
    wait_until(lambda: taken, what="what is urgent")
    assert taken == [2], "with what waited"


def test_too_many_steps_do_not_wait() -> None:
    one, rounds = job(), Rounds(2)
    rounds.offer(said(one), [])
    rounds.offer(said(one), [])
    assert len(rounds.take(in_an_hour(), anyway=False)) == 2


def test_what_waits_is_taken_once_it_was_closed() -> None:
    one, rounds = job(), Rounds(100)
    rounds.offer(said(one), [])
    rounds.close()
    found = [rounds.take(in_an_hour(), anyway=False) for _ in range(2)]
    assert [len(one) for one in found] == [1, 0]
