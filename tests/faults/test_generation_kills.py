"""Workers, and Redis, that end amid a text: whoever reads its stream sees it once, and whole."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest

from common.generation.openai_answers import choices_of
from tests.faults.test_redis_trouble import Server
from tests.support.generation import Reader, catalog, generate, text_of_job
from tests.support.lanes import await_settled
from tests.support.null_generator import text_of
from tests.support.stack import Process, Stack, wait_until

TOKENS = 150
KILLS = [pytest.param(3, id="3"), pytest.param(50, id="50", marks=pytest.mark.slow)]


def serve(stack: Stack, **environment: str) -> Stack:
    """Have workers of this stack serve a generator whose texts take a second or two."""
    path = catalog(stack.folder, gen={"slots": 4, "step_ms": 10})
    stack.environment |= {
        "LANEFLEET_CATALOG": str(path),
        "LANEFLEET_LEASE_SECONDS": "1.5",
        "LANEFLEET_MAX_ATTEMPTS": "100",
        **environment,
    }
    return stack


def holder(stack: Stack, among: list[Process]) -> Process | None:
    """The worker with most rows taken."""
    rows = {one.pid: one.lanes["gen"].rows for one in stack.reports() if "gen" in one.lanes}
    busy = [one for one in among if one.alive and rows.get(one.pid, 0)]
    return max(busy, key=lambda one: rows[one.pid], default=None)


@pytest.mark.parametrize("kills", KILLS)
def test_a_reader_sees_each_text_once_whatever_becomes_of_workers(stack: Stack, kills: int) -> None:
    """One in five is frozen instead, and wakes once another has its jobs: it is fenced."""
    chance = random.Random(kills)
    serve(stack)
    workers = [stack.worker("gen") for _ in range(2)]
    prompts: list[str] = []
    readers: list[Reader] = []
    frozen: list[Process] = []
    for kill in range(kills):
        _publish(stack, prompts, readers, f"round {kill}")
        for _ in range(chance.randrange(1, 4)):
            _await_entries(readers, 1 + chance.randrange(20))
        victim = wait_until(lambda: holder(stack, workers), 60, "a worker with rows")
        workers.remove(victim)
        if kill % 5 == 1:
            victim.signal(signal.SIGSTOP)
            frozen.append(victim)
        else:
            victim.kill()
        workers.append(stack._start("worker", ["-m", "worker"], "gen", {}))
        _await_entries(readers, 1)
        while frozen:
            woken = frozen.pop()
            woken.signal(signal.SIGCONT)
            workers.append(woken)
    await_settled(stack, [one.job_id for one in readers], 120)
    for prompt, reader in zip(prompts, readers, strict=True):
        whole = text_of(prompt, TOKENS)
        assert text_of_job(stack, reader.job_id) == whole
        assert (reader.stop().text(), reader.finish()) == (whole, "length")
        assert len([one for delta in reader.deltas() for one in delta.tokens]) == TOKENS


def _publish(stack: Stack, prompts: list[str], readers: list[Reader], name: str) -> None:
    """Keep at most four texts going."""
    open_ones = sum(not one.finish() for one in readers)
    new = [f"{name} text {number}" for number in range(4 - open_ones)]
    ids = generate(stack, "gen", *new, max_tokens=TOKENS, stream=True)
    prompts += new
    readers += [Reader(stack.redis, one).start() for one in ids]


def _await_entries(readers: list[Reader], count: int) -> None:
    """Wait until somebody's text has grown by so many entries, or all have ended."""
    before = sum(len(one.entries) for one in readers)

    def grown() -> bool:
        now = sum(len(one.entries) for one in readers)
        return now >= before + count or all(one.finish() for one in readers)

    wait_until(grown, 60, f"{count} more entries")


def test_jobs_that_nobody_streams_begin_anew_and_end_once(stack: Stack) -> None:
    """Each has one result, as if its worker had not been killed amid it."""
    serve(stack)
    first, count, sampled = stack.worker("gen"), TOKENS // 2, {"temperature": 0.9}
    asked: dict[str, tuple[dict[str, Any], list[str]]] = {
        "greedy": ({}, [text_of("greedy", count)]),
        "seeded": ({**sampled, "seed": 7}, [text_of("seeded", count, seed=7)]),
        "two": (
            {**sampled, "seed": 3, "n": 2},
            [text_of("two", count, seed=3, choice=one) for one in (0, 1)],
        ),
    }
    ids = {
        prompt: generate(stack, "gen", prompt, max_tokens=count, **params)[0]
        for prompt, (params, _) in asked.items()
    }

    def said() -> int:
        return sum(one.lanes["gen"].tokens for one in stack.reports() if one.pid == first.pid)

    wait_until(lambda: said() > count, 60, "the middle of them")
    first.kill()
    assert stack.states(list(ids.values())) == {"running": len(ids)}
    stack.worker("gen")
    await_settled(stack, list(ids.values()), 60)
    for prompt, (_, texts) in asked.items():
        record = stack.record(ids[prompt])
        assert record is not None
        assert [one["text"] for one in choices_of(record.value)] == texts
    assert stack.stats("gen")["succeeded"] == len(ids)


def test_a_worker_that_is_told_to_stop_lets_texts_go_on_elsewhere(stack: Stack) -> None:
    """What is short ends where it is; what is long is released with what it has said."""
    serve(stack, LANEFLEET_LEASE_SECONDS="60", LANEFLEET_SHUTDOWN_GRACE_SECONDS="2")
    first = stack.worker("gen")
    prompts = ["a long one", "a short one"]
    [long] = generate(stack, "gen", prompts[0], max_tokens=320, stream=True)
    [short] = generate(stack, "gen", prompts[1], max_tokens=60)
    reader = Reader(stack.redis, long).start()
    wait_until(lambda: len(reader.entries) > 5, 30, "a beginning")
    assert first.stop() == 0
    assert text_of_job(stack, short) == text_of(prompts[1], 60)
    assert stack.states([long]) == {"queued": 1}
    before = len(reader.entries)
    assert before < 320
    stack.worker("gen")
    await_settled(stack, [long], 60)
    record = stack.record(long)
    assert record is not None
    assert record.attempts == 1, "a shutdown is no fault of its own"
    assert text_of_job(stack, long) == text_of(prompts[0], 320) == reader.stop().text()


def test_redis_that_restarts_amid_texts_costs_none_of_them(tmp_path: Path) -> None:
    server = Server(tmp_path / "redis", ["--appendonly", "yes", "--appendfsync", "always"]).start()
    stack = serve(Stack(server.url, tmp_path), LANEFLEET_STREAM_BUFFER="8")
    try:
        stack.worker("gen")
        prompts = [f"text {number}" for number in range(4)]
        ids = generate(stack, "gen", *prompts, max_tokens=TOKENS, stream=True)
        readers = [Reader(stack.redis, one).start() for one in ids]
        wait_until(lambda: all(one.entries for one in readers), 30, "a beginning")
        server.kill()
        server.start()
        await_settled(stack, ids, 60)
        for prompt, reader in zip(prompts, readers, strict=True):
            whole = text_of(prompt, TOKENS)
            assert (text_of_job(stack, reader.job_id), reader.stop().text()) == (whole, whole)
    finally:
        stack.close()
        server.kill()


@pytest.mark.slow
def test_a_prompt_that_ends_or_holds_the_process_is_found_and_others_go_on(stack: Stack) -> None:
    """Under a supervisor: it ends the process in company, and once more alone; then it is dead."""
    serve(
        stack,
        LANEFLEET_SUPERVISED="true",
        LANEFLEET_MAX_ATTEMPTS="2",
        LANEFLEET_STEP_TIMEOUT_SECONDS="0.7",
    )
    prompts = ["one", "two"]
    ids = generate(stack, "gen", *prompts, max_tokens=TOKENS, stream=True)
    [deadly] = generate(stack, "gen", "deadly !die:4", max_tokens=TOKENS)
    [holding] = generate(stack, "gen", "holding !hang:4", max_tokens=TOKENS)
    worker = stack._start("worker", ["-m", "worker", "--devices", "cpu"], "gen", {})
    await_settled(stack, [*ids, deadly, holding], 120)
    for prompt, job_id in zip(prompts, ids, strict=True):
        whole = text_of(prompt, TOKENS)
        assert (text_of_job(stack, job_id), Reader(stack.redis, job_id).stop().text()) == (
            whole,
            whole,
        )
    for job_id, words in ((deadly, "its worker died each time"), (holding, "did not return")):
        record = stack.record(job_id)
        assert record is not None
        assert (record.state.value, record.reason) == ("failed", "attempts_exhausted")
        assert words in (record.error or "")
    assert "step gen" in worker.output()
