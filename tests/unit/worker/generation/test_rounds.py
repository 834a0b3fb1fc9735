"""What waits to be told: taken together, at once or at a time, and never waited for when closed."""

from __future__ import annotations

import math
import threading

from tests.support.stack import wait_until
from tests.unit.worker.generation.bench import Bench
from worker.generation.generation import Generation, Token, generation_of
from worker.generation.rounds import Rounds


def job() -> Generation:
    bench = Bench()
    [execution] = bench.give("one", stream=True)
    return generation_of(bench.lane, execution)


def said(generation: Generation) -> list[Token]:
    return [Token(generation, 0, 1, None, None, ())]


def test_all_that_waits_is_taken_together() -> None:
    one, rounds = job(), Rounds(100)
    for _ in range(3):
        rounds.offer(said(one), [])
    rounds.offer((), ())
    assert len(rounds.take(None)) == 3, "what says nothing is no round"
    assert rounds.waiting == 0


def test_it_waits_until_a_time_or_until_it_is_closed() -> None:
    rounds = Rounds(100)
    assert rounds.take(-math.inf) == []
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.append(len(rounds.take(None))), daemon=True)
    thread.start()
    rounds.close()
    wait_until(lambda: taken, what="the end of waiting")
    assert taken == [0]


def test_what_waits_is_taken_after_it_was_closed() -> None:
    one, rounds = job(), Rounds(100)
    rounds.offer(said(one), [])
    rounds.close()
    assert (len(rounds.take(None)), rounds.take(None)) == (1, [])
