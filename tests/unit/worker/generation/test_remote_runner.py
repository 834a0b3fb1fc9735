"""Which jobs servers get, and what becomes of those that they cannot have."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from common.catalog import ModelSpec
from common.errors import InvalidInput, ServerFailed
from common.generation.options import GenerateOptions
from common.generation.said import read_entry
from tests.support.stack import wait_until
from worker.generation.remote_runner import RemoteRunner
from worker.generation.remote_teller import RemoteTeller
from worker.jobs.execution import Execution, Hold, Retry, Said
from worker.lanes.lane import Lane
from worker.lanes.state import WorkerState
from worker.models.remote import Answer, Delta, Emit, Request
from worker.pipeline.error_policy import Retries


class Server:
    """One whose answers a test gives."""

    seeds, most, patience_seconds = 2**31, 2, 0.05

    def __init__(self) -> None:
        self.taken, self.slots = 0, 2
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.seen: list[str] = []
        self.seeds_seen: list[int] = []
        self.open: set[str] = set()
        self.go = threading.Event()
        self.error: Exception | None = None

    async def answer(self, answer: Answer, emit: Emit) -> None:
        name = str(answer.request.prompt)
        self.seen.append(name)
        self.seeds_seen.append(answer.request.seed)
        self.open.add(name)
        try:
            emit(Delta(0, f"hello {name}", (1, 2)))
            answer.choices[0].text += f"hello {name}"
            while not self.go.is_set():
                await asyncio.sleep(0.002)
            if self.error is not None:
                raise self.error
            answer.choices[0].finish = "stop"
            emit(Delta(0, "", finish="stop"))
        finally:
            self.open.discard(name)

    async def recovered(self) -> bool:
        return False

    def on_change(self, tell: Any) -> None:
        pass

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


class Bench:
    """A runner and what it tells its neighbours."""

    def __init__(self, server: Server) -> None:
        self.server: Any = server
        spec = ModelSpec(name="llm", handler="openai-server")
        self.lane = Lane(
            "llm", spec, result_ttl_seconds=60, look_ahead_jobs=1, max_fetching=1, max_attempts=3
        )
        self.lane.serve(spec, self.server)
        self.state = WorkerState({"llm": self.lane})
        self.published: list[Execution] = []
        self.released: list[Any] = []
        self.entries: dict[str, list[bytes]] = {}
        self.fenced: set[str] = set()
        self.revoked: set[str] = set()
        self.redis_is_away = False
        leases: Any = {"llm": SimpleNamespace(say=self._say, release=self._release)}
        finisher: Any = SimpleNamespace(
            submit_batch=lambda _lane, jobs, _ms: self._publish(jobs),
            submit_ended=lambda _lane, jobs: self._publish(jobs),
        )
        starting: Any = SimpleNamespace(
            end_unwanted=lambda _lane, jobs: {},
            start_suspect=lambda _lane, job: True,
            is_revoked=lambda job: job.job_id in self.revoked,
        )
        teller = RemoteTeller(self.state, leases, finisher, Retries(3), 600, 0.0)
        self.runner = RemoteRunner(self.state, leases, starting, teller, lambda _model: None)

    def add(self, *names: str, band: int = 1, **options: Any) -> list[Execution]:
        made = []
        for name in names:
            execution = Execution(f"{name}{band}".encode(), 1, 0, name, time.monotonic())
            execution.item = Request(GenerateOptions(**options), prompt=name)
            execution.handler = self.server
            made.append(execution)
        with self.state.changed:
            for execution in made:
                self.lane.in_hand[execution.tag] = execution
                self.lane.waiting += 1
                self.lane.add(execution, time.monotonic())
            self.state.changed.notify_all()
        return made

    def _say(self, jobs: Any) -> list[int]:
        if self.redis_is_away:
            raise ConnectionError("away")
        for job in jobs:
            self.entries.setdefault(job.job_id, []).append(job.said)
        return [at for at, job in enumerate(jobs) if job.job_id in self.fenced]

    def _release(self, jobs: Any) -> int:
        found = list(jobs)
        self.released += found
        return len(found)

    def _publish(self, jobs: list[Execution]) -> None:
        self.published += jobs
        with self.state.changed:
            self.lane.forget(jobs)

    def text(self, name: str) -> str:
        return "".join(
            one.text for entry in self.entries.get(name, ()) for one in read_entry(entry)
        )


@pytest.fixture
def bench() -> Iterator[Bench]:
    server = Server()
    made = Bench(server)
    made.runner.start()
    yield made
    made.state.stop()
    made.runner.stop(time.monotonic(), time.monotonic() + 5)
    server.close()


def test_a_server_has_no_more_jobs_than_slots_and_the_urgent_ones_first(bench: Bench) -> None:
    bench.add("first", "second", band=2)
    wait_until(lambda: len(bench.server.open) == 2, 20, "two jobs")
    bench.add("bulk", band=4)
    bench.add("urgent", band=1)
    assert bench.lane.waiting == 2
    assert bench.server.taken == 2
    bench.server.slots = 1
    bench.server.go.set()
    wait_until(lambda: len(bench.published) == 4, 20, "all")
    assert bench.server.seen[2:] == ["urgent", "bulk"]
    assert bench.server.taken == 0
    assert not bench.state.running
    assert all(one.output.finished for one in bench.published)


def test_what_is_streamed_is_written_before_the_job_is_published(bench: Bench) -> None:
    (job,) = bench.add("a", stream=True)
    wait_until(lambda: bench.text("a") == "hello a", 20, "its words")
    assert job.tag in bench.state.running, "a stop does not release it"
    bench.redis_is_away = True
    bench.server.go.set()
    wait_until(lambda: not bench.server.open, 20, "its answer's end")
    assert not bench.published
    bench.redis_is_away = False
    wait_until(lambda: bench.published, 20, "its end")
    assert read_entry(bench.entries["a"][-1])[0].finish == "stop"


def test_a_fenced_or_revoked_job_leaves_its_server(bench: Bench) -> None:
    bench.fenced.add("fenced")
    fenced, revoked = bench.add("fenced", "revoked", stream=True)
    wait_until(lambda: fenced in bench.published, 20, "the fenced one")
    bench.revoked.add("revoked")
    wait_until(lambda: revoked in bench.published, 20, "the revoked one")
    assert (fenced.disposition, revoked.disposition) == ("lost", "canceled")
    wait_until(lambda: not bench.server.open, 20, "closed streams")


@pytest.mark.parametrize(
    ("error", "disposition"),
    [
        (InvalidInput("no"), "failed"),
        (ServerFailed("500"), Retry),
        (ValueError("a fault"), Retry),
    ],
)
def test_an_error_is_judged_as_every_models(bench: Bench, error: Any, disposition: Any) -> None:
    bench.server.error = error
    bench.server.go.set()
    (job,) = bench.add("a")
    wait_until(lambda: bench.published, 20, "its end")
    assert job.disposition == disposition or isinstance(job.disposition, disposition)


def test_a_busy_server_costs_no_attempt(bench: Bench) -> None:
    bench.server.error = ServerFailed("429")
    bench.server.error.busy_seconds = 2.0
    bench.server.go.set()
    (job,) = bench.add("a")
    wait_until(lambda: bench.published, 20, "its end")
    assert job.disposition == Hold(2000)


def test_jobs_that_wait_for_a_server_that_is_away_go_back(bench: Bench) -> None:
    bench.server.slots = 0
    bench.add("a", "b")
    wait_until(lambda: len(bench.released) == 2, 20, "both released")
    assert all(one.uncount for one in bench.released)
    wait_until(lambda: not bench.lane.in_hand, 20, "nothing in hand")
    assert bench.lane.waiting == 0
    assert not bench.server.seen


def test_a_job_that_was_decoded_by_another_kind_of_model_goes_back(bench: Bench) -> None:
    other: Any = SimpleNamespace(infer=lambda items: items)
    with bench.state.changed:
        (job,) = bench.add("a")
        job.handler = other
    wait_until(lambda: bench.released, 20, "its release")
    assert bench.server.taken == 0


def test_seeds_are_of_the_job_and_fit_the_server(bench: Bench) -> None:
    bench.server.go.set()
    bench.add("a", "b")
    bench.add("c", seed=7)
    wait_until(lambda: len(bench.published) == 3, 20, "all")
    assert bench.server.seeds_seen[2] == 7
    assert len(set(bench.server.seeds_seen)) == 3
    assert max(bench.server.seeds_seen) < 2**31


def test_a_job_goes_on_from_what_another_worker_said(bench: Bench) -> None:
    bench.server.go.set()
    with bench.state.changed:
        done, begun = bench.add("done", "begun", stream=True)
        done.said, done.said_entries = {0: Said([1], "all of it", [], "stop")}, 4
        begun.said, begun.said_entries = {0: Said([1, 2], "so far ")}, 2
    wait_until(lambda: len(bench.published) == 2, 20, "both")
    assert bench.server.seen == ["begun"]
    assert done.output.choices[0].text == "all of it"
    assert begun.output.choices[0].text == "so far hello begun"
    assert begun.output.choices[0].tokens == [1, 2]


def test_a_stop_lets_jobs_end_and_gives_the_others_back(bench: Bench) -> None:
    bench.add("quick", "slow", stream=True)
    wait_until(lambda: len(bench.server.open) == 2, 20, "both")
    bench.state.stop()
    bench.runner.stop(time.monotonic() + 0.1, time.monotonic() + 5)
    assert [(one.job_id, one.uncount) for one in bench.released] == [
        ("quick", True),
        ("slow", True),
    ]
    assert not bench.published
    wait_until(lambda: not bench.server.open, 20, "closed streams")


def test_a_fault_of_ours_costs_no_slot(bench: Bench) -> None:
    bench.server.go.set()
    with bench.state.changed:
        (job,) = bench.add("a")
        job.item = None
    wait_until(lambda: not bench.lane.in_hand, 20, "its end")
    assert bench.server.taken == 0
    bench.add("b")
    wait_until(lambda: bench.published, 20, "another job")
