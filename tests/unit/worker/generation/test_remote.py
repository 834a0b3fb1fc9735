"""One job in a server, over the server's ends: who goes on together, who alone, who is at fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from common.catalog import ModelSpec
from common.errors import AttemptsExhausted, ServerFailed
from common.generation.options import GenerateOptions
from worker.generation.remote import Gate, Run, ServerIsAway, conduct
from worker.jobs.execution import Execution
from worker.lanes.lane import Lane
from worker.models.remote import Answer, Delta, Emit, Request


class Server:
    """Answers by a function for each attempt; it is away after those that say so."""

    seeds, most, taken, patience_seconds = 2**63, 8, 0, 5.0

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.most_inside = 0
        self.healthy = True
        self.answers: Callable[[str, int, Emit], Any] = lambda _name, _number, _emit: None
        self.attempts: dict[str, int] = {}

    async def answer(self, answer: Answer, emit: Emit) -> None:
        name = str(answer.request.prompt)
        number = self.attempts[name] = self.attempts.get(name, 0) + 1
        self.inside.append(name)
        self.most_inside = max(self.most_inside, len(self.inside))
        try:
            await asyncio.sleep(0)
            await self.answers(name, number, emit)
        finally:
            self.inside.remove(name)

    async def recovered(self) -> bool:
        if self.healthy:
            return False
        while not self.healthy:
            await asyncio.sleep(0.001)
        return True


def run_of(server: Any, name: str, deaths: int = 0) -> Run:
    spec = ModelSpec(name="llm", handler="openai-server")
    lane = Lane("llm", spec, result_ttl_seconds=60, look_ahead_jobs=1, max_fetching=1)
    request = Request(GenerateOptions(), prompt=name)
    execution = Execution(name.encode(), 1, 0, name, 0.0)
    answer = Answer.to(request, streamed=True)
    return Run(lane, execution, server, answer, 0.0, server, deaths)


async def go(server: Server, *runs: Run, gate: Gate | None = None) -> list[BaseException | None]:
    gate = gate or Gate()
    work = (conduct(run, gate, lambda _run: None, lambda: 1.0) for run in runs)
    return await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), 20)  # type: ignore[arg-type]


def test_a_failure_of_a_server_that_is_well_is_the_jobs() -> None:
    async def main() -> None:
        server = Server()

        async def fails(_name: str, _number: int, _emit: Emit) -> None:
            raise ServerFailed("answered 500")

        server.answers = fails
        (error,) = await go(server, run_of(server, "a"))
        assert isinstance(error, ServerFailed)
        assert server.attempts == {"a": 1}

    asyncio.run(main())


def test_jobs_that_saw_two_ends_go_on_one_by_one_and_the_culprit_is_found() -> None:
    """One ends the server whenever it has said a token, however often it is tried."""

    async def main() -> None:
        server = Server()
        alone: list[str] = []

        async def answers(name: str, _number: int, emit: Emit) -> None:
            for _ in range(3):
                await asyncio.sleep(0.002)
                if not server.healthy:
                    raise ServerFailed("it is gone")
                emit(Delta(0, "word "))
                if name == "bad":
                    server.healthy = False
                    alone.append(",".join(server.inside))
                    asyncio.get_running_loop().call_later(0.02, setattr, server, "healthy", True)
                    raise ServerFailed("it is gone")

        server.answers = answers
        runs = [run_of(server, name) for name in ("a", "b", "bad", "c", "d")]
        errors = await go(server, *runs)
        assert [type(one) for one in errors] == [
            *(type(None), type(None), AttemptsExhausted, type(None), type(None))
        ]
        assert "the last time alone" in str(errors[2])
        assert alone[-1] == "bad"
        assert len(alone) <= 4, "as many ends as it takes"

    asyncio.run(main())


def test_a_job_goes_back_to_its_lane_when_the_server_stays_away() -> None:
    async def main() -> None:
        server = Server()
        server.healthy, server.patience_seconds = False, 0.01

        async def fails(_name: str, _number: int, _emit: Emit) -> None:
            raise ServerFailed("refused")

        server.answers = fails
        (error,) = await go(server, run := run_of(server, "a"))
        assert isinstance(error, ServerIsAway)
        assert run.deaths == 1, "it costs an attempt: the job may be why"

    asyncio.run(main())


def test_who_is_alone_waits_for_the_others_and_they_for_it() -> None:
    async def main() -> None:
        gate, inside = Gate(), []

        async def visit(name: str, *, alone: bool) -> None:
            async with gate.enter(alone=alone):
                assert not inside or not (alone or "alone" in inside)
                inside.append("alone" if alone else name)
                await asyncio.sleep(0.001)
                inside.remove("alone" if alone else name)

        names = [(f"n{number}", number % 3 == 0) for number in range(30)]
        await asyncio.wait_for(
            asyncio.gather(*(visit(name, alone=alone) for name, alone in names)), 20
        )

    asyncio.run(main())


def test_who_shares_lets_others_in() -> None:
    async def main() -> None:
        gate = Gate()
        async with gate.enter(alone=True) as share:
            share()
            async with asyncio.timeout(5), gate.enter(alone=False):
                pass
        async with asyncio.timeout(5), gate.enter(alone=True):
            pass

    asyncio.run(main())


def test_one_that_is_canceled_while_it_waits_keeps_nobody_out() -> None:
    async def main() -> None:
        gate = Gate()
        async with gate.enter(alone=False):
            waits = asyncio.create_task(go_in(gate, alone=True))
            await asyncio.sleep(0.001)
            behind = asyncio.create_task(go_in(gate, alone=False))
            await asyncio.sleep(0.001)
            assert not behind.done()
            waits.cancel()
            await asyncio.wait_for(behind, 5)

    asyncio.run(main())


async def go_in(gate: Gate, *, alone: bool) -> None:
    async with gate.enter(alone=alone):
        pass


def test_what_is_said_after_the_close_is_not_kept() -> None:
    run = run_of(Server(), "a")
    run.said(Delta(0, "one ", (1,)))
    run.said(Delta(0, "two ", (2,)))
    (delta,) = run.take_said()
    assert (delta.text, delta.tokens) == ("one two ", [1, 2])
    run.close()
    run.said(Delta(0, "three"))
    assert run.take_said() == []


@pytest.mark.parametrize(
    ("slots", "taken", "waiting", "room"),
    [(8, 0, 0, 8), (8, 5, 0, 3), (8, 5, 2, 1), (8, 8, 0, 0), (0, 0, 0, 0), (1, 3, 0, 0)],
)
def test_a_lane_reserves_what_its_server_has_slots_for(
    slots: int, taken: int, waiting: int, room: int
) -> None:
    lane = run_of(Server(), "a").lane
    server: Any = Server()
    server.slots, server.taken = slots, taken
    lane.serve(lane.spec, server)
    lane.waiting = waiting
    assert lane.generates
    assert lane.room() == room
    lane.starved = True
    assert lane.room() == (max(0, max(0, slots - taken) + 1 - waiting) if slots else 0)
    lane.starved, lane.backlog = False, 100
    assert lane.room() == (max(0, max(0, slots - taken) + 4 - waiting) if slots else 0)
    lane.serve(lane.spec, None)
    assert lane.room() == 0
