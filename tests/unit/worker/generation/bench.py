"""A stepper over a null generator, with neighbours that write down what reaches them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from common.catalog import ModelSpec
from tests.support.models import calls
from tests.support.null_generator import NullGenerator
from worker.generation.generation import Generation, Token
from worker.generation.stepper import Stepper
from worker.jobs.execution import Execution
from worker.lanes.device_time import DeviceTime
from worker.lanes.lane import Lane
from worker.lanes.rows import Rows
from worker.lanes.state import WorkerState
from worker.lanes.work import RunStep
from worker.pipeline.error_policy import Retries
from worker.pipeline.starting import Starting

GREEDY: Mapping[str, Any] = {"temperature": 0, "max_tokens": 5}


class Bench:
    """One lane, whose steps a test asks for one by one; it is its own teller and finisher."""

    def __init__(self, handler: NullGenerator | None = None, **options: Any) -> None:
        spec = ModelSpec(
            name="gen", handler="tests.support.null_generator:NullGenerator", options=options
        )
        self.handler = handler or NullGenerator()
        self.handler.load(spec, "cpu")
        self.rows = Rows(self.handler, spec)
        self.lane = Lane("gen", spec, result_ttl_seconds=60, look_ahead_jobs=256, max_fetching=8)
        self.lane.serve(spec, self.handler, self.rows)  # type: ignore[arg-type]
        self.state = WorkerState({"gen": self.lane})
        self.said: dict[str, dict[int, list[int]]] = {}
        """By job and choice, the tokens that reached the teller."""
        self.ended: dict[str, Generation] = {}
        self.submitted: list[str] = []
        """Jobs that never got as far as a row."""
        self.revoked: set[str] = set()
        self.lost: list[str] = []
        self.turns = 1
        """Steps of one turn."""
        self.is_behind = False
        self.held = 0
        self.started: list[str] = []
        starting = Starting(
            self.state,
            {"gen": SimpleNamespace(start=self._start)},  # type: ignore[dict-item]
            self,  # type: ignore[arg-type]
            SimpleNamespace(run_one=self._decode),  # type: ignore[arg-type]
            lambda job_id: job_id in self.revoked,
        )
        self.stepper = Stepper(
            self.state,
            starting,
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            DeviceTime(time.monotonic()),
            calls(),
            may_go_on=self._may_go_on,
            on_device_lost=self.lost.append,
            on_stuck=lambda _slot, _call: None,
            retries=Retries(3),
            turn_seconds=60,
        )

    # -- what a test does ------------------------------------------------------

    def give(self, *prompts: str, attempt: int = 1, **params: Any) -> list[Execution]:
        """Have these wait, decoded; suspects undecoded."""
        made = []
        for prompt in prompts:
            one = Execution(prompt.encode() + b":1", attempt, 0, prompt, time.monotonic())
            one.value, one.params = prompt, {**GREEDY, **params}
            self.lane.in_hand[one.tag] = one
            self.lane.waiting += 1
            if attempt > 1:
                self.lane.suspects.append(one)
            else:
                self._decode(self.lane, one)
                self.lane.add(one, one.arrived)
            made.append(one)
        return made

    def turn(self, steps: int = 1) -> bool:
        """One turn of so many steps; false where the lane had nothing to do."""
        self.turns = steps
        with self.state.changed:
            step = self.lane.next_work(time.monotonic(), True)
            if step is None:
                return False
            self.state.took(self.lane, step.joining)  # type: ignore[union-attr]
        self.stepper.run(RunStep(self.lane, step))  # type: ignore[arg-type]
        return True

    def run(self, most: int = 1000) -> None:
        """Turn after turn, until there is nothing to do."""
        assert any(not self.turn() for _ in range(most)), "it does not come to an end"

    def count(self, prompt: str) -> int:
        """How many tokens the teller has of a job's first choice."""
        return len(self.said.get(prompt, {}).get(0, ()))

    @property
    def on_rows(self) -> list[str]:
        """The jobs that the generator has rows of."""
        return sorted({row.prompt.extra[0] for row in self.handler.rows.values()})

    # -- as the teller ---------------------------------------------------------

    def offer(self, tokens: Sequence[Token], ended: Sequence[Generation]) -> None:
        for one in tokens:
            job_id = one.generation.execution.job_id
            assert job_id not in self.ended, "a token after its end"
            self.said.setdefault(job_id, {}).setdefault(one.choice, []).append(one.token)
        for generation in ended:
            self.ended[generation.execution.job_id] = generation

    def hold(self, _rows: Rows) -> None:
        self.held += 1

    def await_room(self, _seconds: float) -> None:
        self.is_behind = False

    # -- as the finisher and others --------------------------------------------

    def submit_ended(self, _lane: Lane, executions: Sequence[Execution]) -> None:
        self.submitted += [one.job_id for one in executions]

    def flush(self) -> None:
        self.started.append("flush")

    def _may_go_on(self, _lane: Lane, _now: float) -> bool:
        self.turns -= 1
        return self.turns > 0

    def _start(self, _tag: bytes, job_id: str, _ttl: int) -> int:
        self.started.append(job_id)
        return self.lane.in_hand[job_id.encode() + b":1"].attempt

    def _decode(self, _lane: Lane, execution: Execution) -> None:
        execution.handler, execution.item = (
            self.handler,  # type: ignore[assignment]
            self.handler.decode(execution.value, execution.params),
        )
        execution.cost = self.handler.cost(execution.item)
