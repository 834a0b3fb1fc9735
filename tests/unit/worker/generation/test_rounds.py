"""When what steps have said is told: first words and ends at once, the rest in the pace."""

from __future__ import annotations

import threading

from tests.support.stack import wait_until
from tests.unit.worker.generation.bench import Bench
from worker.generation.generation import Generation, Token, generation_of
from worker.generation.rounds import Rounds
from worker.generation.wording import open_texts

AN_HOUR = 3_600.0


def job(*, begun: bool) -> Generation:
    bench = Bench()
    [execution] = bench.give("one", stream=True)
    made = generation_of(bench.lane, execution)
    if begun:
        open_texts(made)
    return made


def said(generation: Generation) -> list[Token]:
    return [Token(generation, 0, 1, None, None, ())]


def test_steps_in_one_pace_are_taken_together() -> None:
    one, rounds = job(begun=True), Rounds(100, AN_HOUR)
    rounds.offer(said(one), [])
    assert len(rounds.take()) == 1, "nothing was told lately"
    for _ in range(3):
        rounds.offer(said(one), [])
    left = rounds._seconds_left()
    assert left is not None
    assert 0 < left <= AN_HOUR
    rounds.close()
    assert (len(rounds.take()), rounds.take()) == (3, [])


def test_first_words_and_ends_do_not_wait() -> None:
    one, fresh, rounds = job(begun=True), job(begun=False), Rounds(100, AN_HOUR)
    rounds.offer(said(one), [])
    rounds.take()
    for tokens, ended in ((said(fresh), []), (said(one), [one])):
        rounds.offer(said(one), [])
        assert rounds._seconds_left() != 0.0
        rounds.offer(tokens, ended)
        assert len(rounds.take()) == 2, "with what waited"


def test_too_many_steps_do_not_wait() -> None:
    one, rounds = job(begun=True), Rounds(2, AN_HOUR)
    rounds.offer(said(one), [])
    rounds.take()
    rounds.offer(said(one), [])
    rounds.offer(said(one), [])
    assert rounds.is_behind
    assert len(rounds.take()) == 2


def test_whoever_waits_for_the_pace_hears_of_an_end() -> None:
    one, rounds = job(begun=True), Rounds(100, AN_HOUR)
    rounds.offer(said(one), [])
    rounds.take()
    rounds.offer(said(one), [])
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.append(len(rounds.take())), daemon=True)
    thread.start()
    rounds.offer((), [one])
    wait_until(lambda: taken, what="the end")
    assert taken == [2]


def test_without_a_pace_nothing_waits() -> None:
    one, rounds = job(begun=True), Rounds(100, 0.0)
    for _ in range(2):
        rounds.offer(said(one), [])
        assert len(rounds.take()) == 1
