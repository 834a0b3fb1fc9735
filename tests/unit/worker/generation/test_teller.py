"""What is told, in which order, and what a slow or absent Redis costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from common.generation.said import read_entry
from tests.support.models import calls
from tests.support.null_generator import WORDS
from tests.support.stack import wait_until
from tests.unit.worker.generation.bench import Bench
from worker.generation.generation import Generation, Token, generation_of
from worker.generation.rounds import Rounds
from worker.generation.teller import Teller
from worker.jobs.execution import Execution, Said
from worker.jobs.lease_calls import ReleasedJob, SaidJob
from worker.lanes.lane import Lane
from worker.lanes.redis_health import RedisHealth


class Ear:
    """A teller's neighbours: what was said, published and released, in order."""

    def __init__(self, **settings: Any) -> None:
        self.bench = Bench()
        self.log: list[str] = []
        self.entries: dict[str, list[bytes]] = {}
        self.ttls: list[int] = []
        self.published: dict[str, Execution] = {}
        self.fenced: set[str] = set()
        self.before_say: Callable[[], None] = lambda: None
        self.most_waiting = settings.pop("most_waiting", 100)
        self.rounds = Rounds(self.most_waiting)
        pace_seconds = settings.pop("pace_seconds", 0.0)
        self.calls = calls(**settings)
        self.teller = Teller(
            self.bench.state,
            {"gen": SimpleNamespace(say=self._say, release=self._release)},  # type: ignore[dict-item]
            self,  # type: ignore[arg-type]
            RedisHealth(0.0),
            self.calls,
            stream_seconds=600,
            rounds=self.rounds,
            pace_seconds=pace_seconds,
        )

    def job(self, prompt: str, **params: Any) -> Generation:
        """One that has been admitted."""
        [execution] = self.bench.give(prompt, **params)
        return generation_of(self.bench.lane, execution)

    def tell(self, *rounds: tuple[list[Token], list[Generation]]) -> None:
        """Let it tell these to the end."""
        for tokens, ended in rounds:
            self.rounds.offer(tokens, ended)
        self.teller.start()
        self.teller.stop(60)

    def said(self, job_id: str) -> str:
        """The text of its stream."""
        return "".join(one.text for entry in self.entries[job_id] for one in read_entry(entry))

    def submit_generated(self, lane: Lane, executions: Sequence[Execution], _ms: float) -> None:
        self.submit_ended(lane, executions)

    def submit_ended(self, _lane: Lane, executions: Sequence[Execution]) -> None:
        for one in executions:
            assert one.job_id not in self.published, "published twice"
            self.published[one.job_id] = one
            self.log.append(f"publish {one.job_id}")

    def _say(self, jobs: Sequence[SaidJob]) -> list[int]:
        self.before_say()
        self.log.append("say " + " ".join(job.job_id for job in jobs))
        for job in jobs:
            if job.job_id not in self.fenced:
                entries = self.entries.setdefault(job.job_id, [])
                assert job.number == len(entries) + 1
                entries.append(job.said)
                self.ttls.append(job.ttl_seconds)
        return [at for at, job in enumerate(jobs) if job.job_id in self.fenced]

    def _release(self, jobs: Sequence[ReleasedJob]) -> int:
        self.log += [f"release {one.job_id} {one.uncount}" for one in jobs]
        return len(jobs)


def tokens(generation: Generation, *numbers: int, finish: bool = False) -> list[Token]:
    made = [Token(generation, 0, number, None, None, ()) for number in numbers]
    return [*made[:-1], made[-1]._replace(finish="length")] if finish else made


def words(*numbers: int) -> str:
    return "".join(WORDS[one] + " " for one in numbers)


def test_a_step_is_one_call_and_a_stream_is_whole_before_its_result() -> None:
    ear = Ear()
    one, two, quiet = ear.job("one", stream=True), ear.job("two", stream=True), ear.job("quiet")
    ear.tell(
        (
            [*tokens(one, 1, finish=True), *tokens(two, 2, 3), *tokens(quiet, 4, finish=True)],
            [one, quiet],
        )
    )
    assert ear.log[0] == "say one two"
    assert sorted(ear.log[1:]) == ["publish one", "publish quiet"]
    assert (ear.said("one"), ear.said("two")) == (words(1), words(2, 3))
    assert ear.ttls == [60, 600], "the last entry leaves with its result"
    output = ear.published["quiet"].output
    assert [(one.text, one.finish) for one in output.choices] == [(words(4), "length")]


def test_who_is_fenced_is_lost_and_says_no_more() -> None:
    ear = Ear()
    one, two = ear.job("one", stream=True), ear.job("two", stream=True)
    ear.fenced.add("one")
    ear.teller.start()
    ear.rounds.offer([*tokens(one, 1), *tokens(two, 1)], [])
    wait_until(lambda: one.execution.disposition == "lost", what="the fence")
    ear.rounds.offer([*tokens(one, 2), *tokens(two, 2, finish=True)], [two])
    ear.rounds.offer([], [one])  # as the stepper, at its next sweep
    ear.teller.stop(60)
    assert ear.log.count("say one two") == 1
    assert (ear.said("two"), "one" in ear.entries) == (words(1, 2), False)
    assert ear.published["one"].disposition == "lost"


def test_what_comes_after_a_stop_string_is_not_told() -> None:
    ear = Ear()
    one = ear.job("one", stream=True, stop=[WORDS[2]])
    ear.tell((tokens(one, 1, 2, 3), []), (tokens(one, 4), [one]))
    assert ear.said("one") == words(1)
    assert one.telling.stopped == {0}
    [choice] = ear.published["one"].output.choices
    assert (choice.text, choice.finish, choice.tokens) == (words(1), "stop", [1, 2])


def test_a_deadline_gives_what_was_held_back() -> None:
    ear = Ear()
    one = ear.job("one", stream=True, on_deadline="partial", stop=[WORDS[1] + " never"])
    one.execution.deadline, one.execution.digest = 5.0, "d" * 64
    one.cut = "deadline"
    ear.tell((tokens(one, 1), [one]))
    [choice] = ear.published["one"].output.choices
    assert (choice.text, choice.finish) == (words(1), "deadline")
    assert ear.said("one") == words(1)
    assert ear.published["one"].deadline is None, "its result comes after it"
    assert ear.published["one"].digest == "", "and is nobody else's"


def test_a_job_that_is_taken_over_has_its_whole_text_and_says_the_rest() -> None:
    ear = Ear()
    [execution] = ear.bench.give("one", stream=True, logprobs=0, stop=[words(2, 9)])
    chance = {"token": WORDS[1], "id": 1, "logprob": -0.5, "top": []}
    execution.said = {0: Said([1, 2], logprobs=[chance, chance])}
    execution.said_entries = 0
    one = generation_of(ear.bench.lane, execution)
    ear.tell((tokens(one, 3, finish=True), [one]))
    [choice] = ear.published["one"].output.choices
    assert (choice.text, choice.tokens, len(choice.logprobs)) == (words(1, 2, 3), [1, 2, 3], 3)
    assert ear.said("one") == words(2, 3), "the other held the second word back"


def test_a_job_of_which_all_was_said_is_published_without_another_word() -> None:
    ear = Ear()
    [execution] = ear.bench.give("one", stream=True)
    execution.said, execution.said_entries = {0: Said([1, 2], finish="length")}, 2
    one = generation_of(ear.bench.lane, execution)
    assert one.has_ended
    ear.tell(([], [one]))
    assert ear.log == ["publish one"]
    [choice] = ear.published["one"].output.choices
    assert (choice.text, choice.finish) == (words(1, 2), "length")


def test_a_job_that_is_released_says_all_first() -> None:
    ear = Ear()
    one = ear.job("one", stream=True)
    one.cut = "release"
    ear.tell((tokens(one, 1), [one]))
    assert ear.log == ["say one", "release one True"]
    assert not ear.bench.lane.in_hand


def test_while_redis_is_away_steps_gather_and_then_wait() -> None:
    ear, away = Ear(most_waiting=4), threading.Event()

    def fail() -> None:
        if not away.is_set():
            raise ConnectionError("away")

    ear.before_say = fail
    one, rows = ear.job("one", stream=True), ear.bench.rows
    ear.teller.start()
    ear.rounds.offer(tokens(one, 1), [])
    wait_until(lambda: not ear.rounds.waiting, what="that it tries to say this")
    for number in range(2, 6):
        assert not ear.rounds.is_behind
        ear.rounds.offer(tokens(one, number), [])
    assert ear.rounds.is_behind
    ear.rounds.hold(rows)
    assert (rows.behind, rows.waits) == (True, 1)
    assert ear.bench.lane.admission is not None
    assert ear.bench.lane.admission.waited(ear.bench.lane, time.monotonic()) is None
    away.set()
    wait_until(lambda: not rows.behind, what="room")
    ear.teller.stop(60)
    assert ear.said("one") == words(1, 2, 3, 4, 5)
    assert len(ear.entries["one"]) == 2, "what had gathered is one entry"


@pytest.mark.parametrize("wish", ["raise-text", "hang-text"])
def test_a_text_that_fails_or_hangs_costs_its_own_job(wish: str) -> None:
    ear = Ear(encode_timeout_seconds=0.2)
    bad, good = ear.job(f"bad !{wish}:1", stream=True), ear.job("good", stream=True)
    ear.teller.start()
    ear.rounds.offer([*tokens(bad, 1, 2, 3), *tokens(good, 1, finish=True)], [good])

    def published() -> bool:
        ear.teller.look(time.monotonic())
        return "good" in ear.published

    wait_until(published, what="the other's result")
    assert bad.execution.disposition == "failed"
    ear.rounds.offer([], [bad])
    ear.teller.stop(60)
    assert ear.published.keys() == {"good", bad.execution.job_id}
    assert ear.said("good") == ear.said(bad.execution.job_id) == words(1), "what it said before"
    assert len(ear.calls.left_behind()) == (wish == "hang-text")


AN_HOUR = 3_600.0


def test_in_one_pace_steps_are_written_together_and_ends_with_what_waits() -> None:
    ear = Ear(pace_seconds=AN_HOUR)
    one, two = ear.job("one", stream=True), ear.job("two", stream=True)
    ear.teller.start()
    ear.rounds.offer(tokens(one, 1), [])
    wait_until(lambda: "one" in ear.entries, what="its first words")
    for number in (2, 3):
        ear.rounds.offer(tokens(one, number), [])
    ear.rounds.offer(tokens(two, 1), [])
    wait_until(lambda: "two" in ear.entries, what="first words of another")
    assert len(ear.entries["one"]) == 2, "with them goes what waited"
    ear.rounds.offer(tokens(one, 4), [])
    ear.rounds.offer(tokens(two, 2, finish=True), [two])
    wait_until(lambda: "two" in ear.published, what="an end")
    assert len(ear.entries["one"]) == 3
    ear.rounds.offer(tokens(one, 5), [])
    ear.teller.stop(60)
    assert ear.said("one") == words(1, 2, 3, 4, 5)
    assert (len(ear.entries["one"]), len(ear.entries["two"])) == (4, 2)


def test_what_waits_is_written_when_its_time_has_come() -> None:
    ear = Ear(pace_seconds=0.05)
    one = ear.job("one", stream=True)
    ear.teller.start()
    for number in (1, 2):
        ear.rounds.offer(tokens(one, number), [])
        wait_until(lambda number=number: len(ear.entries.get("one", ())) == number, what="it")  # type: ignore[misc]
    ear.teller.stop(60)
    assert ear.said("one") == words(1, 2)


def test_a_stop_string_is_found_whatever_the_pace() -> None:
    ear = Ear(pace_seconds=AN_HOUR)
    one = ear.job("one", stream=True, stop=[words(2).strip()])
    ear.teller.start()
    ear.rounds.offer(tokens(one, 1), [])
    wait_until(lambda: "one" in ear.entries, what="its first words")
    ear.rounds.offer(tokens(one, 2), [])
    wait_until(lambda: "one" in ear.published, what="its end")
    ear.teller.stop(60)
