"""What becomes of rows between steps: one state a case, no thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from common.errors import DeviceOutOfMemory
from tests.support.null_generator import NullGenerator, prompt_tokens, token_at
from tests.unit.worker.generation.bench import Bench
from worker.jobs.execution import Retry, Said
from worker.models.generator import Advance, Prompt, RowsFailed


def answer(prompt: str, count: int, choice: int = 0) -> list[int]:
    tokens = prompt_tokens(prompt)
    return [token_at(tokens, 0, choice, position) for position in range(count)]


def test_rows_are_shared_and_each_job_gets_its_own_tokens() -> None:
    bench = Bench(slots=3)
    names = [f"job {number}" for number in range(8)]
    bench.give(*names)
    bench.turn()
    assert bench.on_rows == names[:3]
    assert bench.state.running == {name.encode() + b":1" for name in names[:3]}
    assert (bench.rows.active, bench.rows.tokens, bench.lane.waiting) == (3, 21.0, 5)
    bench.run()
    assert bench.said == {name: {0: answer(name, 5)} for name in names}
    assert bench.handler.steps == 15, "three waves of five"
    assert (bench.rows.active, bench.rows.tokens, bench.on_rows) == (0, 0.0, [])
    assert not bench.state.running
    stats = bench.lane.stats.generation
    assert (stats.prompt_tokens, stats.completion_tokens) == (16, 40)
    assert sum(stats.first_token.counts) == 8
    assert sum(stats.between.counts) == 32
    assert bench.lane.stats.stages.jobs == 8


def test_a_turn_goes_on_while_nobody_else_waits() -> None:
    bench = Bench()
    bench.give("one", max_tokens=9)
    bench.turn(steps=4)
    assert bench.count("one") == 4
    bench.is_behind = True
    bench.turn(steps=4)
    assert (bench.count("one"), bench.held) == (5, 1), "not while too much waits to be told"


def test_every_choice_has_a_row_and_leaves_by_itself() -> None:
    bench = Bench(slots=4)
    [one] = bench.give("many", n=3)
    bench.turn()
    assert len(bench.handler.rows) == bench.rows.active == 3
    generation = bench.stepper._seatings[bench.rows].generations[0]
    generation.telling.stopped.add(1)  # by a stop string
    bench.turn()
    assert bench.rows.active == 2
    bench.run()
    assert {choice: len(said) for choice, said in bench.said["many"].items()} == {0: 5, 1: 1, 2: 5}
    assert bench.ended["many"].execution is one


@pytest.mark.parametrize("how", ["lost", "revoked", "deadline", "time_limit"])
def test_who_is_not_wanted_leaves_before_the_next_step(how: str) -> None:
    bench = Bench()
    [gone, _] = bench.give("gone", "stays")
    bench.turn()
    if how == "lost":
        assert bench.state.leases_lost(bench.lane, [gone.tag]) == 1
    elif how == "revoked":
        bench.revoked.add("gone")
    elif how == "deadline":
        gone.deadline = bench.lane.server_time() - 1
    else:
        gone.time_limits = (1e-9, None)
    bench.turn()
    assert bench.on_rows == ["stays"]
    ends = {"lost": "lost", "revoked": "canceled", "deadline": "expired", "time_limit": "failed"}
    assert bench.ended["gone"].execution.disposition == ends[how]
    assert bench.count("gone") == 1
    bench.run()
    assert bench.said["stays"][0] == answer("stays", 5)
    freed = bench.lane.stats.generation.freed.counts
    assert freed == ([1, 0, 0, 0, 0] if how == "lost" else [0] * 5)


def test_a_deadline_may_leave_what_was_said() -> None:
    bench = Bench()
    [one] = bench.give("partial", on_deadline="partial")
    bench.turn()
    one.deadline = bench.lane.server_time() - 1
    bench.turn()
    assert (bench.ended["partial"].cut, one.disposition) == ("deadline", None)
    assert bench.on_rows == []


def test_a_row_that_the_model_names_fails_and_the_others_keep_the_step() -> None:
    class Naming(NullGenerator):
        def step(self) -> Sequence[Advance]:
            advances = super().step()
            if self.steps == 2:
                raise RowsFailed({0: "its logits are not numbers"}, advances[1:])
            return advances

    bench = Bench(Naming())
    [bad, _] = bench.give("bad", "good")
    bench.run()
    assert (bench.count("bad"), bad.disposition) == (1, "failed")
    assert str(bad.error) == "its logits are not numbers"
    assert bench.said["good"][0] == answer("good", 5)
    assert bench.handler.steps == 5, "no step was repeated"


def test_after_a_step_that_raised_each_is_tried_alone() -> None:
    bench = Bench()
    names = ["first", "bad !raise-step:2", "third"]
    bad = bench.give(*names)[1]
    bench.run()
    assert isinstance(bad.disposition, Retry), "alone it fails as often as any job"
    assert bench.count(names[1]) == 2
    for name in (names[0], names[2]):
        assert bench.said[name][0] == answer(name, 5), "none is lost and none said twice"
    assert bench.rows.cap == 16


def test_a_fault_that_nobody_has_alone_costs_nothing_and_memory_costs_rows() -> None:
    class Small(NullGenerator):
        def step(self) -> Sequence[Advance]:
            if len(self.rows) > 3:
                raise DeviceOutOfMemory("four rows are too many")
            return super().step()

    bench = Bench(Small(), slots=8)
    names = [f"job {number}" for number in range(8)]
    bench.give(*names)
    bench.run()
    assert bench.said == {name: {0: answer(name, 5)} for name in names}
    assert bench.rows.cap in (2, 4)
    passing = Bench()
    passing.give("unlucky !once-step:1", "beside")
    passing.run()
    assert {name: len(said[0]) for name, said in passing.said.items()} == {
        "unlucky !once-step:1": 5,
        "beside": 5,
    }
    assert passing.rows.cap == 16


def test_who_finds_no_memory_waits_while_others_hold_some() -> None:
    bench = Bench()
    bench.give("before")
    bench.turn()
    [one] = bench.give("large !oom")
    bench.give("behind it")
    bench.turn()
    assert (bench.rows.parked, bench.on_rows) == (2, ["before"]), "and nobody overtakes it"
    bench.run()
    assert one.disposition is None
    assert all(bench.count(name) == 5 for name in ("before", "large !oom", "behind it"))
    [never] = bench.give("huge !oom-always")
    bench.run()
    assert isinstance(never.disposition, Retry)


def test_what_can_never_fit_is_refused_with_a_sentence() -> None:
    bench = Bench(slots=2, budget_tokens=20)
    [long] = bench.give("much too long", max_tokens=40)
    [many] = bench.give("many", n=3, max_tokens=1)
    bench.run()
    assert "may come to 43 tokens; this model's memory holds 20" in str(long.error)
    assert "3 answers at once; this model gives 2" in str(many.error)


def test_a_suspect_is_alone_until_its_first_token() -> None:
    bench = Bench(chunk=1)
    bench.give("running since before", max_tokens=40)
    bench.turn()
    bench.give("a suspect of few words", "another suspect", attempt=2)
    bench.give("fresh")
    for _ in range(4):
        bench.turn()
        assert bench.on_rows == ["a suspect of few words", "running since before"]
    bench.turn()
    assert bench.count("a suspect of few words") == 1
    bench.turn()
    assert "another suspect" in bench.on_rows
    assert "fresh" not in bench.on_rows
    bench.run()
    assert bench.started == ["flush", "a suspect of few words", "flush", "another suspect"]
    assert bench.count("fresh") == 5


def test_on_its_last_attempt_a_suspect_is_alone_to_its_end() -> None:
    bench = Bench()
    bench.give("running", max_tokens=3)
    bench.turn()
    bench.give("last try", attempt=3, max_tokens=4)
    bench.give("fresh")
    seen = []
    while bench.turn():
        seen.append(bench.on_rows)
    alone = [one for one in seen if "last try" in one]
    assert alone == [["last try"]] * 3, "its last step leaves no row"
    assert bench.count("fresh") == 5


def test_what_another_worker_said_is_not_said_again() -> None:
    bench = Bench()
    [one] = bench.give("taken over", n=2)
    whole = [answer("taken over", 5, choice) for choice in (0, 1)]
    one.said = {0: Said(whole[0][:3]), 1: Said(whole[1], finish="length")}
    one.said_entries = 3
    bench.run()
    assert bench.said["taken over"] == {0: whole[0][3:]}
    assert bench.ended["taken over"].telling.entry == 3
    [done] = bench.give("all was said")
    done.said = {0: Said(answer("all was said", 5), finish="length")}
    steps = bench.handler.steps
    bench.run()
    assert (bench.handler.steps, "all was said" in bench.ended) == (steps, True)


def test_a_device_that_is_lost_leaves_its_jobs_in_hand() -> None:
    class Lost(NullGenerator):
        def step(self) -> Sequence[Advance]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    bench = Bench(Lost())
    jobs = bench.give("one", "two")
    bench.turn()
    assert bench.lost == ["gen"]
    assert not bench.turn()
    assert [one.disposition for one in jobs] == [None, None]
    assert bench.state.take_started(bench.lane) == jobs


@pytest.mark.parametrize("verb", ["admit", "drop"])
def test_what_the_model_does_wrong_costs_the_job_at_hand(verb: str) -> None:
    class Wrong(NullGenerator):
        def admit(self, prompt: Prompt) -> Sequence[int]:
            rows = super().admit(prompt)
            return [*rows, *rows] if verb == "admit" and prompt.extra[0] == "bad" else rows

        def drop(self, row: int) -> None:
            super().drop(row)
            if verb == "drop":
                raise SystemExit(3)

    bench = Bench(Wrong())
    [bad, _] = bench.give("bad", "good")
    bench.run()
    assert bench.count("good") == 5
    assert bad.disposition == ("failed" if verb == "admit" else None)
    assert bench.rows.active == 0


def test_a_worker_that_stops_runs_on_until_its_time_is_over() -> None:
    bench = Bench()
    bench.give("short")
    bench.turn()
    bench.stepper.end()
    assert bench.count("short") == 5
    bench.give("long", max_tokens=1000)
    bench.turn()
    bench.stepper.stop_at = time.monotonic()
    bench.stepper.end()
    assert (bench.ended["long"].cut, bench.on_rows) == ("release", [])


def test_luck_is_not_shared() -> None:
    bench = Bench()
    made: list[Any] = []
    for params in ({"temperature": 0}, {"temperature": 1, "seed": 3}, {"temperature": 1}):
        [one] = bench.give(f"with {params}", **params)
        one.digest = "d" * 64
        made.append(one)
    bench.run()
    assert [bool(one.digest) for one in made] == [True, True, False]


def test_a_decode_that_returns_no_prompt_fails_its_job_and_no_other() -> None:
    """A suspect, which is decoded on its way to the device."""

    class Wrong(NullGenerator):
        def decode(self, value: Any, params: Any) -> Any:
            return "no prompt" if value == "wrong" else super().decode(value, params)

        def cost(self, prompt: Any) -> float:
            return 1.0

    bench = Bench(Wrong())
    bench.give("good")
    bench.turn()
    [wrong] = bench.give("wrong", attempt=2)
    bench.run()
    assert (bench.count("good"), wrong.disposition) == (5, "failed")
    assert "`decode` returned a str; a generator's must return a Prompt" in str(wrong.error)
    assert bench.submitted == ["wrong"]


def test_a_text_that_a_stop_string_has_ended_is_not_failed_by_a_later_step() -> None:
    """The teller has handed it on while its row was still there."""

    class Late(NullGenerator):
        def step(self) -> Sequence[Advance]:
            advances = super().step()
            if self.steps == 2:
                bench.stepper._seatings[bench.rows].generations[0].telling.submitted = True
                raise RowsFailed({0: "its logits are not numbers"}, advances[1:])
            return advances

    bench = Bench(Late())
    [ended, _] = bench.give("ended", "other")
    bench.run()
    assert ended.disposition is None
    assert bench.count("other") == 5
