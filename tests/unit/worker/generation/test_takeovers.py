"""Workers that die between any two steps, entries and results: one text, once, in every stream.

The threads of a worker are taken apart: a test says when the device steps, when the teller tells,
and when all of it is gone. Redis is a dictionary with a fence.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from common.generation.said import read_entry
from tests.support.models import calls
from tests.support.null_generator import text_of
from tests.unit.worker.generation.bench import Bench
from worker.generation.generation import Generation, Token
from worker.generation.rounds import Rounds
from worker.generation.teller import Teller
from worker.jobs.execution import Execution, Said
from worker.jobs.lease_calls import ReleasedJob, SaidJob
from worker.lanes.lane import Lane
from worker.lanes.redis_health import RedisHealth

LENGTH = 12


class Store:
    """What outlives workers: streams, results, and who holds a job."""

    def __init__(self) -> None:
        self.streams: dict[str, list[bytes]] = {}
        self.results: dict[str, Any] = {}
        self.holders: dict[str, int] = {}

    def said(self, job_id: str) -> dict[int, Said]:
        """As the intake reads it."""
        found: dict[int, Said] = {}
        for entry in self.streams.get(job_id, ()):
            for delta in read_entry(entry):
                one = found.setdefault(delta.choice, Said())
                one.tokens += delta.tokens
                one.logprobs += delta.logprobs
                one.finish = delta.finish
        return found

    def text(self, job_id: str, choice: int) -> str:
        """What a reader has."""
        deltas = [one for entry in self.streams[job_id] for one in read_entry(entry)]
        return "".join(one.text for one in deltas if one.choice == choice)


class Worker(Bench):
    """One life of a worker; its number is its lease."""

    def __init__(self, store: Store, number: int, jobs: dict[str, dict[str, Any]]) -> None:
        super().__init__(slots=4, chunk=2)
        self.store, self.number = store, number
        self.rounds = Rounds(1000)
        self.teller = Teller(
            self.state,
            {"gen": SimpleNamespace(say=self._say, release=self._release)},  # type: ignore[dict-item]
            self,  # type: ignore[arg-type]
            RedisHealth(0.0),
            calls(),
            stream_seconds=60,
            rounds=self.rounds,
            pace_seconds=0.0,
        )
        self._voice = self.teller._voice
        self._voice.slot.thread = threading.current_thread()
        for job_id, params in jobs.items():
            store.holders[job_id] = number
            [one] = self.give(job_id, **params)
            one.said = store.said(job_id) or None
            one.said_entries = len(store.streams.get(job_id, ()))

    def offer(self, tokens: Sequence[Token], ended: Sequence[Generation]) -> None:
        self.rounds.offer(tokens, ended)

    def tell(self) -> None:
        """Let the teller say all it has."""
        if self.rounds.waiting:
            self.teller._gather(self._voice.task)
            self.teller._tell(self._voice)
            self._voice.task = type(self._voice.task)()

    def submit_generated(self, lane: Lane, executions: Sequence[Execution], _ms: float) -> None:
        self.submit_ended(lane, executions)

    def submit_ended(self, _lane: Lane, executions: Sequence[Execution]) -> None:
        for one in executions:
            if self.store.holders[one.job_id] == self.number and one.disposition is None:
                assert one.job_id not in self.store.results, "published twice"
                self.store.results[one.job_id] = one.output

    def _say(self, jobs: Sequence[SaidJob]) -> list[int]:
        fenced = []
        for at, job in enumerate(jobs):
            stream = self.store.streams.setdefault(job.job_id, [])
            if self.store.holders[job.job_id] != self.number:
                fenced.append(at)
            else:
                assert job.number == len(stream) + 1
                stream.append(job.said)
        return fenced

    def _release(self, jobs: Sequence[ReleasedJob]) -> int:
        return len(jobs)


def story(seed: int) -> None:
    """A few jobs through as many lives as it takes."""
    chance, store = random.Random(seed), Store()
    stop = text_of("stopped", LENGTH).split(" ")[7]
    jobs: dict[str, dict[str, Any]] = {
        "plain": {},
        "two": {"n": 2, "logprobs": 0},
        "stopped": {"stop": [f"{stop} "]},
        "ended !end:5": {},
    }
    for params in jobs.values():
        params |= {"max_tokens": LENGTH, "stream": True}
    zombies: list[Worker] = []
    for life in range(200):
        worker = Worker(store, life, {one: jobs[one] for one in jobs if one not in store.results})
        for _ in range(chance.randrange(1, 15)):
            more = worker.turn()
            if chance.random() < 0.6:
                worker.tell()
            if zombies and chance.random() < 0.3:
                zombie = chance.choice(zombies)
                zombie.turn()
                zombie.tell()
            if not more:
                worker.tell()
                break
        zombies.append(worker)
        if len(store.results) == len(jobs):
            break
    check(store, jobs, seed)


def check(store: Store, jobs: dict[str, dict[str, Any]], seed: int) -> None:
    assert store.results.keys() == jobs.keys(), seed
    for job_id, output in store.results.items():
        for number, choice in enumerate(output.choices):
            whole = text_of(job_id, LENGTH, choice=number)
            if "stop" in jobs[job_id]:
                whole = whole[: whole.index(jobs[job_id]["stop"][0])]
            elif "!end" in job_id:
                whole = text_of(job_id, 5)
            assert choice.text == store.text(job_id, number) == whole, (seed, job_id)
            assert len(choice.logprobs) == (len(choice.tokens) if job_id == "two" else 0)


@pytest.mark.parametrize("first", [0, 10])
def test_a_text_is_told_once_whatever_dies_between_two_words(first: int) -> None:
    for seed in range(first, first + 10):
        story(seed)
