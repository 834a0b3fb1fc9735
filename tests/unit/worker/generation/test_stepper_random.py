"""Jobs that come, fail, are canceled and time out in random order: nobody's tokens go astray."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from common.errors import DeviceOutOfMemory
from tests.support.null_generator import NullGenerator, prompt_tokens, token_at
from tests.unit.worker.generation.bench import Bench
from worker.jobs.execution import Execution, Said
from worker.models.generator import Advance, RowsFailed

WISHES = ("", "", "", "!nan:2", "!raise-step:0", "!once-step:3", "!oom", "!raise-admit", "!end:3")


class Moody(NullGenerator):
    """Raises of its own accord, now and then: out of memory, or for a row that it names."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    def step(self) -> Sequence[Advance]:
        mood = self._chance.random()
        if mood < 0.02 and len(self.rows) > 1:
            raise DeviceOutOfMemory("not now")
        advances = super().step()
        if mood > 0.98 and advances:
            raise RowsFailed({advances[0].row: "this one"}, advances[1:])
        return advances


class Story:
    """One random course of events."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.bench = Bench(Moody(self.chance), slots=4, budget_tokens=120, chunk=2)
        self.jobs: dict[str, Execution] = {}

    def run(self) -> None:
        for number in range(60):
            self._event(number)
            self.bench.turn(self.chance.randrange(1, 4))
        self.bench.run(5_000)

    def _event(self, number: int) -> None:
        kind = self.chance.choice(("give", "give", "cancel", "revoke", "deadline", "stop"))
        if kind == "give":
            self._give(number)
            return
        open_jobs = [one for name, one in self.jobs.items() if name not in self.bench.ended]
        if not open_jobs:
            return
        one = self.chance.choice(open_jobs)
        if kind == "cancel":
            self.bench.state.leases_lost(self.bench.lane, [one.tag])
        elif kind == "revoke":
            self.bench.revoked.add(one.job_id)
        elif kind == "deadline":
            one.deadline = self.bench.lane.server_time() - 1
        else:
            for seating in self.bench.stepper._seatings.values():
                for generation in seating.generations[:1]:
                    generation.telling.stopped.add(0)

    def _give(self, number: int) -> None:
        name = f"job {number} {self.chance.choice(WISHES)}".strip()
        choices, attempt = self.chance.choice((1, 1, 1, 2, 4)), self.chance.choice((1, 1, 1, 2, 3))
        partial = {"on_deadline": self.chance.choice(("fail", "partial"))}
        most = self.chance.randrange(1, 12)
        [one] = self.bench.give(name, attempt=attempt, n=choices, max_tokens=most, **partial)
        if self.chance.random() < 0.2:
            said = answer(name, self.chance.randrange(most), 0)
            one.said = {0: Said(said)}
        self.jobs[name] = one


def answer(prompt: str, count: int, choice: int) -> list[int]:
    tokens = prompt_tokens(prompt)
    return [token_at(tokens, 0, choice, position) for position in range(count)]


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_every_job_ends_once_with_its_own_tokens_and_all_rows_are_free(first: int) -> None:
    for seed in range(first, first + 20):
        story = Story(seed)
        story.run()
        bench = story.bench
        assert bench.ended.keys() | set(bench.submitted) == story.jobs.keys(), seed
        for name, one in story.jobs.items():
            before = len(one.said[0].tokens) if one.said else 0
            for choice, said in bench.said.get(name, {}).items():
                start = before if choice == 0 else 0
                whole = answer(name, start + len(said), choice)
                if "!end" in name and len(whole) > 3:
                    whole[3] = said[3 - start] if start <= 3 else whole[3]
                assert said == whole[start:], (seed, name)
        assert not bench.turn(), "there is nothing left to do"
        rows = bench.rows
        assert (rows.active, rows.tokens, rows.parked, rows.proving) == (0, 0.0, 0, b""), seed
        assert (rows.alone, bench.handler.rows, bench.state.running) == (False, {}, frozenset())
        assert bench.lane.waiting == 0
