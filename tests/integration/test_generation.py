"""Generation through a real worker: shared rows, streams, cancels, deadlines and faults."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api.cli.fleet import free_port
from common.jobs.job import Job
from common.metrics.table import METRICS
from common.redis.keys import ALIASES
from common.redis.scripts import Scripts
from common.worker_report import LaneReport
from tests.support.celery_client import client
from tests.support.generation import GREEDY, Reader, catalog, generate, text_of_job
from tests.support.lanes import await_settled
from tests.support.metrics import missing, value
from tests.support.null_generator import text_of
from tests.support.stack import Stack, running_redis, wait_until
from worker.generation.generation import seed_of


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One worker with a fast generator, a slow one and a small one."""
    folder = tmp_path_factory.mktemp("generation")
    with running_redis(folder / "redis") as server:
        made = Stack(server.url, folder)
        path = catalog(
            folder,
            {"chat": "slow"},
            quick={"slots": 16},
            slow={"slots": 4, "step_ms": 20},
            small={"slots": 4, "budget_tokens": 64, "step_ms": 1},
        )
        made.environment |= {
            "LANEFLEET_CATALOG": str(path),
            "LANEFLEET_WORKER_HEALTH_PORT": str(free_port()),
        }
        made.worker("echo,quick,slow,small,chat")
        yield made
        made.close()


def test_many_jobs_share_steps_and_each_gets_its_own_text(fleet: Stack) -> None:
    prompts = [f"prompt number {number}" for number in range(64)]
    ids = generate(fleet, "quick", *prompts, max_tokens=24)
    await_settled(fleet, ids, 60)
    assert [text_of_job(fleet, one) for one in ids] == [text_of(one, 24) for one in prompts]


def test_streams_say_what_the_results_say(fleet: Stack) -> None:
    asked = {"stream": True, "max_tokens": 40, "n": 2, "logprobs": 1}
    [one] = generate(fleet, "slow", "a stream of two answers", **asked)
    reader = Reader(fleet.redis, one).start()
    await_settled(fleet, [one], 60)
    reader.stop()
    result = value_of(fleet, one)
    for choice in (0, 1):
        text = text_of("a stream of two answers", 40, choice=choice)
        assert reader.text(choice) == result["choices"][choice]["text"] == text
        assert reader.finish(choice) == result["choices"][choice]["finish_reason"] == "length"
        said = [chance for delta in reader.deltas() if delta.choice == choice
                for chance in delta.logprobs]  # fmt: skip
        assert said == result["choices"][choice]["logprobs"]
        assert "".join(chance["token"] for chance in said) == text
    assert result["usage"] == {"prompt_tokens": 5, "completion_tokens": 80, "total_tokens": 85}
    assert len(reader.entries) >= 20, "about one a step"
    assert 0 < fleet.redis.ttl(f"lf:said:{one}") <= 3600  # type: ignore[operator]


def test_options_are_each_jobs_own_and_a_stop_may_lie_over_a_border(fleet: Stack) -> None:
    whole = text_of("where does it end", 30)
    words = whole.split(" ")
    stop = f"{words[7][-1]} {words[8][0]}"  # the end of a token, and the beginning of the next
    cut = whole[: whole.index(stop)]
    plain, stopped, kept, short, ended = [
        generate(fleet, "quick", prompt, **options)[0]
        for prompt, options in (
            ("where does it end", {"max_tokens": 30}),
            ("where does it end", {"max_tokens": 30, "stop": [stop], "stream": True}),
            ("where does it end", {"max_tokens": 30, "stop": [stop], "include_stop": True}),
            ("where does it end", {"max_tokens": 3}),
            ("this ends !end:4", {"max_tokens": 30}),
        )
    ]
    await_settled(fleet, [plain, stopped, kept, short, ended], 60)
    ends = {one: value_of(fleet, one) for one in (plain, stopped, kept, short, ended)}
    assert (ends[plain]["text"], ends[plain]["finish_reason"]) == (whole, "length")
    assert (ends[stopped]["text"], ends[stopped]["finish_reason"]) == (cut, "stop")
    assert ends[kept]["text"] == cut + stop
    assert (ends[short]["text"], ends[short]["finish_reason"]) == (
        " ".join(words[:3]) + " ",
        "length",
    )
    assert ends[ended]["finish_reason"] == "stop"
    assert ends[ended]["usage"]["completion_tokens"] == 5
    said = Reader(fleet.redis, stopped).stop()
    assert (said.text(), said.finish()) == (cut, "stop")


def test_a_seed_that_nobody_gave_is_the_jobs_own_and_named(fleet: Stack) -> None:
    first, second = generate(fleet, "quick", "luck", "luck", temperature=0.7, max_tokens=8)
    [given] = generate(fleet, "quick", "luck", temperature=0.7, max_tokens=8, seed=11)
    await_settled(fleet, [first, second, given], 60)
    seeds = [value_of(fleet, one)["seed"] for one in (first, second, given)]
    assert seeds == [seed_of(first), seed_of(second), 11]
    texts = [text_of_job(fleet, one) for one in (first, second, given)]
    assert texts == [text_of("luck", 8, seed=seed) for seed in seeds]


def test_a_canceled_job_leaves_its_row_to_others(fleet: Stack) -> None:
    endless = generate(fleet, "slow", *["never ends !endless"] * 4, max_tokens=100_000, stream=True)
    readers = [Reader(fleet.redis, one).start() for one in endless]
    wait_until(lambda: all(one.entries for one in readers), 30, "all four run")
    [waiting] = generate(fleet, "slow", "waits for a row", max_tokens=3)
    for one in endless:
        cancel(fleet, one)
    await_settled(fleet, [waiting], 30)
    assert text_of_job(fleet, waiting) == text_of("waits for a row", 3)
    assert fleet.states(endless) == {"canceled": 4}
    wait_until(lambda: report(fleet, "slow").rows == 0, 20, "no row is taken")
    assert freed_late(fleet) == 0
    lengths = [len(one.stop().entries) for one in readers]
    fleet.await_reports()
    assert [len(Reader(fleet.redis, one).stop().entries) for one in endless] == lengths


def test_a_revoked_job_leaves_as_well(fleet: Stack) -> None:
    [one] = generate(fleet, "slow", "revoked !endless", max_tokens=100_000)
    wait_until(lambda: report(fleet, "slow").rows == 1, 30, "it runs")
    with client(fleet) as app:
        app.control.revoke(one)
        await_settled(fleet, [one], 30)
    assert fleet.states([one]) == {"canceled": 1}
    wait_until(lambda: report(fleet, "slow").rows == 0, 20, "no row is taken")


def test_a_deadline_ends_a_job_or_cuts_its_text(fleet: Stack) -> None:
    soon = int((time.time() + 0.6) * 1000)
    jobs = [
        Job("slow", "long !endless", {**GREEDY, "max_tokens": 100_000, **more}, deadline_ms=soon)
        for more in ({}, {"on_deadline": "partial", "stream": True})
    ]
    failed, partial = fleet.publish(jobs)
    await_settled(fleet, [failed, partial], 30)
    assert fleet.states([failed]) == {"expired": 1}
    result = value_of(fleet, partial)
    assert result["finish_reason"] == "deadline"
    count = result["usage"]["completion_tokens"]
    assert count > 3
    assert result["text"] == text_of("long !endless", count)
    said = Reader(fleet.redis, partial).stop()
    assert (said.text(), said.finish()) == (result["text"], "deadline")


@pytest.mark.parametrize(
    ("prompt", "reason", "words"),
    [
        ("bad !nan:3", "attempts_exhausted", "the logits of a row are not numbers"),
        ("bad !raise-admit", "attempts_exhausted", "this prompt cannot be admitted"),
        ("bad !oom-always", "attempts_exhausted", "there is no memory for this prompt"),
        ("bad !raise-text:4", "encode_failed", "this token has no text"),
    ],
)
def test_who_is_at_fault_fails_alone(fleet: Stack, prompt: str, reason: str, words: str) -> None:
    others = [f"innocent {number}" for number in range(3)]
    ids = generate(fleet, "slow", *others, max_tokens=12, stream=True)
    [culprit] = generate(fleet, "slow", prompt, max_tokens=12)
    await_settled(fleet, [*ids, culprit], 60)
    record = fleet.record(culprit)
    assert record is not None
    assert (record.state.value, record.reason) == ("failed", reason)
    assert words in (record.error or "")
    assert [text_of_job(fleet, one) for one in ids] == [text_of(one, 12) for one in others]
    assert [Reader(fleet.redis, one).stop().text() for one in ids] == [
        text_of(one, 12) for one in others
    ]


def test_a_fault_that_passes_costs_nobody_a_token(fleet: Stack) -> None:
    prompts = ["unlucky !once-step:5", "beside one", "beside two"]
    ids = generate(fleet, "slow", *prompts, max_tokens=12, stream=True, n=1)
    await_settled(fleet, ids, 60)
    assert [text_of_job(fleet, one) for one in ids] == [text_of(one, 12) for one in prompts]
    assert [Reader(fleet.redis, one).stop().text() for one in ids] == [
        text_of(one, 12) for one in prompts
    ]


def test_memory_for_tokens_is_a_budget(fleet: Stack) -> None:
    """Of 64 tokens: two of 40 run one after the other, and one of 70 never does."""
    prompts = ["first of two", "second of two"]
    ids = generate(fleet, "small", *prompts, max_tokens=37)
    [large] = generate(fleet, "small", "too large", max_tokens=70)
    [many] = generate(fleet, "small", "too many", max_tokens=2, n=5)
    await_settled(fleet, [*ids, large, many], 60)
    assert [text_of_job(fleet, one) for one in ids] == [text_of(one, 37) for one in prompts]
    refused = fleet.record(large)
    assert refused is not None
    assert refused.reason == "prompt_too_long"
    assert "may come to 72 tokens; this model's memory holds 64" in (refused.error or "")
    refused = fleet.record(many)
    assert refused is not None
    assert (refused.reason, refused.error) == (
        "invalid_input",
        "params.n: 5 answers at once; this model gives 4",
    )


def test_a_lane_of_batches_has_its_turns_beside_rows_that_never_end(fleet: Stack) -> None:
    endless = generate(fleet, "slow", *["never ends !endless"] * 4, max_tokens=100_000)
    wait_until(lambda: report(fleet, "slow").rows == 4, 30, "the rows are taken")
    before = report(fleet, "slow").tokens
    ids = fleet.publish([Job("echo", str(number), {"sleep_ms": 2}) for number in range(200)])
    await_settled(fleet, ids, 60)
    assert fleet.states(ids) == {"succeeded": 200}
    wait_until(lambda: report(fleet, "slow").tokens > before + 8, 30, "and steps have theirs")
    for one in endless:
        cancel(fleet, one)
    wait_until(lambda: report(fleet, "slow").rows == 0, 20, "no row is taken")


def test_an_alias_shares_the_rows_of_its_model_and_leaves_them_when_it_moves(fleet: Stack) -> None:
    [stays] = generate(fleet, "chat", "never ends !endless", max_tokens=100_000, stream=True)
    own = generate(fleet, "slow", *[f"own {number}" for number in range(6)], max_tokens=8)
    reader = Reader(fleet.redis, stays).start()
    await_settled(fleet, own, 60)
    assert [text_of_job(fleet, one) for one in own] == [text_of(f"own {at}", 8) for at in range(6)]
    wait_until(lambda: report(fleet, "chat").rows == report(fleet, "slow").rows == 1, 20, "one row")
    fleet.redis.hset(ALIASES, "chat", "quick")
    wait_until(lambda: report(fleet, "chat").model == "quick", 30, "the move")
    [new] = generate(fleet, "chat", "for the new one", max_tokens=8)
    await_settled(fleet, [new], 60)
    assert text_of_job(fleet, new) == text_of("for the new one", 8)
    before = len(reader.entries)
    wait_until(lambda: len(reader.entries) > before + 3, 30, "what runs on the old one goes on")
    cancel(fleet, stays)
    wait_until(lambda: report(fleet, "slow").rows == 0, 20, "no row is taken")
    reader.stop()
    fleet.redis.hdel(ALIASES, "chat")


def value_of(fleet: Stack, job_id: str) -> dict[str, Any]:
    """A job's result."""
    record = fleet.record(job_id)
    assert record is not None
    assert record.state.value == "succeeded", record.error
    value: dict[str, Any] = record.value
    return value


def cancel(fleet: Stack, job_id: str) -> None:
    Scripts(fleet.redis).run("cancel", (), (job_id, 60, "canceled"))


def report(fleet: Stack, lane: str) -> LaneReport:
    [one] = fleet.reports()
    return one.lanes[lane]


def freed_late(fleet: Stack) -> float:
    """How many canceled jobs had their rows for more than two steps."""
    port = fleet.environment["LANEFLEET_WORKER_HEALTH_PORT"]
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    name = "lanefleet_worker_canceled_row_steps_bucket"
    assert (
        missing(text, {one for one in METRICS if one.when == "its model is a generator"}) == set()
    )
    found = [value(text, name, lane="slow", le=edge) for edge in ("+Inf", "2.0")]
    assert found[0] >= 4
    return found[0] - found[1]
