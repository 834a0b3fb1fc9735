"""Lanes whose model runs in a server: slots, streams, deaths, cancels, deadlines, shutdown."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from common.jobs.job import Job
from tests.support import openai_server
from tests.support.generation import Reader, text_of_job
from tests.support.lanes import await_settled
from tests.support.openai_server import answer_to, text_of
from tests.support.stack import Process, Stack, running_redis, wait_until

SLOTS = 8
TOKENS = 8


def write_catalog(folder: Path, **models: dict[str, Any]) -> str:
    """A catalog of servers, each with its state in a folder of its name, and `echo`."""
    entries: dict[str, Any] = {"echo": {"handler": "echo", "max_wait_ms": 0}}
    for name, own in models.items():
        command = [sys.executable, "-I", openai_server.__file__, "--state", str(folder / name)]
        options = {
            "engine": "vllm",
            "command": [*command, "--port", "{port}"],
            "slots": SLOTS,
            "health_seconds": 0.1,
            "stop_seconds": 2,
            **own,
        }
        if name == "other":
            options["command"] += ["--gate", str(folder / "gate")]
        entries[name] = {"handler": "openai-server", "task": "generate", "options": options}
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": entries}))
    return str(path)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One worker with two servers."""
    folder = tmp_path_factory.mktemp("servers")
    with running_redis(folder / "redis") as server:
        made = Stack(server.url, folder)
        (folder / "gate").touch()
        made.environment["LANEFLEET_CATALOG"] = write_catalog(
            folder, llm={}, other={"slots": 2, "patience_seconds": 0.2}
        )
        made.worker("echo,llm,other")
        yield made
        made.close()


def ask(stack: Stack, *prompts: Any, lane: str = "llm", **params: Any) -> list[str]:
    params = {"temperature": 0, "max_tokens": TOKENS, **params}
    return stack.publish([Job(lane, one, params) for one in prompts])


def seen(stack: Stack, name: str, lane: str = "llm") -> int:
    return int((stack.folder / lane / name).read_text())


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[1]) == pid and words[0] != "Z":
            found.append(int(path.parent.name))
    return found


def servers_of(worker: Process, state: Path) -> list[int]:
    """The pids of the worker's servers with this state; below their watchers."""
    below = [server for watcher in children_of(worker.pid) for server in children_of(watcher)]
    return [pid for pid in below if str(state) in Path(f"/proc/{pid}/cmdline").read_text()]


def test_many_jobs_share_the_slots_and_each_gets_its_own_text(fleet: Stack) -> None:
    prompts = [f"job{number} !slow:2 " for number in range(64)]
    ids = ask(fleet, *prompts)
    await_settled(fleet, ids, 60)
    assert [text_of_job(fleet, one) for one in ids] == [answer_to(one, TOKENS) for one in prompts]
    assert 2 <= seen(fleet, "most") <= SLOTS
    assert seen(fleet, "open") == 0


def test_a_killed_server_loses_no_job_and_says_nothing_twice(fleet: Stack) -> None:
    prompts: list[Any] = [f"kill{number} !slow:20 " for number in range(20)]
    chats = [{"messages": [{"role": "user", "content": f"chat{n} !slow:20 "}]} for n in range(8)]
    ids = ask(fleet, *prompts[:10], stream=True, max_tokens=24)
    ids += ask(fleet, *chats, stream=True, max_tokens=24)
    ids += ask(fleet, *prompts[10:], max_tokens=24)
    readers = [Reader(fleet.redis, one).start() for one in ids[:18]]
    wait_until(lambda: sum(map(bool, (one.entries for one in readers))) >= SLOTS, 20, "tokens")
    (server,) = servers_of(fleet.processes[0], fleet.folder / "llm")
    os.kill(server, signal.SIGKILL)
    await_settled(fleet, ids, 60)
    assert fleet.states(ids) == {"succeeded": 28}
    asked = [*prompts[:10], *(text_of(one["messages"]) for one in chats), *prompts[10:]]
    wanted = [answer_to(one, 24) for one in asked]
    assert [text_of_job(fleet, one) for one in ids] == wanted
    assert [reader.stop().text() for reader in readers] == wanted[:18]
    assert {reader.finish() for reader in readers} == {"length"}
    records = [fleet.record(one) for one in ids]
    assert {record.attempts for record in records if record} == {1}, "it cost no attempt"


def test_the_job_that_ends_servers_is_found_and_the_others_go_on(fleet: Stack) -> None:
    good = [f"good{number} !slow:10 " for number in range(6)]
    ids = ask(fleet, *good[:3], "bad !always-die:2 ", *good[3:])
    await_settled(fleet, ids, 120)
    assert fleet.states([*ids[:3], *ids[4:]]) == {"succeeded": 6}
    record = fleet.record(ids[3])
    assert record is not None
    assert record.state.value == "failed"
    assert "the last time alone" in str(record.error)


@pytest.mark.parametrize("name", ["cancel", "lost"])
def test_a_job_that_nobody_wants_leaves_its_server(fleet: Stack, name: str) -> None:
    before = seen(fleet, "left")
    (job_id,) = ask(fleet, f"{name} !slow:20 ", stream=True, max_tokens=2000)
    with_text = Reader(fleet.redis, job_id).start()
    wait_until(lambda: with_text.entries, 20, "a token")
    if name == "cancel":
        cancel(fleet, job_id)
        assert fleet.states([job_id]) == {"canceled": 1}
    else:
        from common.redis.keys import LaneKeys

        fleet.redis.delete(LaneKeys.of("llm").as_list()[4])
    wait_until(lambda: seen(fleet, "left") == before + 1, 20, "its stream's end")
    wait_until(lambda: seen(fleet, "open") == 0, 20, "a free slot")
    with_text.stop()


def cancel(stack: Stack, job_id: str) -> None:
    from common.redis.scripts import Scripts

    Scripts(stack.redis).run("cancel", (), (job_id, 3600, "canceled"))


def test_a_deadline_leaves_an_error_or_the_text_so_far(fleet: Stack) -> None:
    soon = int(time.time() * 1000) + 1500
    params = {"temperature": 0, "max_tokens": 2000}
    jobs = [
        Job("llm", "late !slow:20 ", params, deadline_ms=soon),
        Job("llm", "part !slow:20 ", {**params, "on_deadline": "partial"}, deadline_ms=soon),
    ]
    ids = fleet.publish(jobs)
    await_settled(fleet, ids, 30)
    assert fleet.states(ids[:1]) == {"expired": 1}
    record = fleet.record(ids[1])
    assert record is not None
    result: Any = record.value
    assert result["finish_reason"] == "deadline"
    words = len(result["text"].split())
    assert words > 0
    assert result["text"] == answer_to("part !slow:20 ", words)


def test_what_a_server_says_of_a_request_is_what_becomes_of_the_job(fleet: Stack) -> None:
    ids = ask(fleet, "a !status:400 ", "b !status:500 ", "c !status:401 ", "d !busy ")
    ids += ask(fleet, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})
    ids += ask(fleet, "e ", chat_template="x")
    await_settled(fleet, ids, 60)
    found = [fleet.record(one) for one in ids]
    reasons = [one.reason if one else "" for one in found]
    assert reasons == [
        "invalid_input",
        "attempts_exhausted",
        "server_refused",
        None,
        "invalid_input",
        "invalid_input",
    ]
    assert text_of_job(fleet, ids[3]) == answer_to("d !busy ", TOKENS)
    assert found[3] is not None
    assert found[3].attempts == 1, "that it was busy is not the job's fault"


def test_a_server_that_is_not_healthy_is_given_nothing(fleet: Stack) -> None:
    sick = fleet.folder / "other" / "sick"
    sick.touch()
    wait_until(lambda: fleet.reports()[0].lanes["other"].slots == 0, 20, "the look")
    before = fleet.folder / "other" / "requests"
    size = before.stat().st_size if before.exists() else 0
    ids = ask(fleet, "later ", lane="other")
    echoed = fleet.publish([Job("echo", 1)])
    await_settled(fleet, echoed, 20)
    assert fleet.waiting("other") == 1
    assert (before.stat().st_size if before.exists() else 0) == size
    sick.unlink()
    await_settled(fleet, ids, 20)
    assert text_of_job(fleet, ids[0]) == answer_to("later ", TOKENS)


def test_jobs_go_back_to_their_lane_while_a_server_stays_away(fleet: Stack) -> None:
    ids = ask(fleet, "first !slow:20 ", lane="other", stream=True, max_tokens=40)
    reader = Reader(fleet.redis, ids[0]).start()
    wait_until(lambda: reader.entries, 20, "a token")
    gate = fleet.folder / "gate"
    gate.unlink()
    (server,) = servers_of(fleet.processes[0], fleet.folder / "other")
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: fleet.waiting("other") == 1, 20, "the job in its lane")
    gate.touch()
    await_settled(fleet, ids, 30)
    wanted = answer_to("first !slow:20 ", 40)
    assert text_of_job(fleet, ids[0]) == reader.stop().text() == wanted


def test_a_stream_that_is_cut_is_tried_again_and_said_once(fleet: Stack) -> None:
    prompts = ["cut1 !cut:3 ", "cut2 !cut:3 "]
    chat = {"messages": [{"role": "user", "content": "cut3 !cut:3 "}]}
    ids = ask(fleet, prompts[0], chat, stream=True) + ask(fleet, prompts[1])
    readers = [Reader(fleet.redis, one).start() for one in ids[:2]]
    await_settled(fleet, ids, 30)
    wanted = [answer_to(one, TOKENS) for one in (prompts[0], text_of(chat["messages"]), prompts[1])]
    assert [text_of_job(fleet, one) for one in ids] == wanted
    assert [reader.stop().text() for reader in readers] == wanted[:2]
    records = [fleet.record(one) for one in ids]
    assert {record.attempts for record in records if record} == {2}


@pytest.mark.slow
def test_the_stock_client_reads_its_streams_through_the_queue(fleet: Stack) -> None:
    api = fleet.api("echo,llm")
    messages: Any = [{"role": "user", "content": "hello"}]
    about: Any = {"model": "llm", "temperature": 0, "max_tokens": TOKENS}
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as stock:
        completion = stock.completions.create(prompt="over http ", **about)
        assert completion.choices[0].text == answer_to("over http ", TOKENS)
        assert completion.usage is not None
        assert completion.usage.prompt_tokens == 2
        chat = stock.chat.completions.create(messages=messages, stream=True, **about)
        said = "".join(one.choices[0].delta.content or "" for one in chat if one.choices)
        assert said == answer_to(text_of(messages), TOKENS)
        with pytest.raises(openai.BadRequestError, match="as you wish"):
            stock.completions.create(prompt="x !status:400 ", **about)


def test_a_full_server_keeps_nobody_else_waiting(fleet: Stack) -> None:
    ids = ask(fleet, *(f"hang{number} !hang:1 " for number in range(SLOTS)))
    wait_until(lambda: seen(fleet, "open") == SLOTS, 20, "all slots taken")
    others = fleet.publish([Job("echo", number) for number in range(50)])
    others += ask(fleet, "beside ", lane="other")
    await_settled(fleet, others, 20)
    assert seen(fleet, "open") == SLOTS
    for one in ids:
        cancel(fleet, one)
    wait_until(lambda: seen(fleet, "open") == 0, 20, "free slots")


def test_a_killed_worker_takes_its_server_along_and_another_goes_on(stack: Stack) -> None:
    stack.environment["LANEFLEET_CATALOG"] = write_catalog(stack.folder, llm={})
    stack.environment["LANEFLEET_LEASE_SECONDS"] = "2"
    worker = stack.worker("llm")
    prompts = [f"over{number} !slow:20 " for number in range(4)]
    ids = ask(stack, *prompts, stream=True, max_tokens=30)
    readers = [Reader(stack.redis, one).start() for one in ids]
    wait_until(lambda: all(len(one.entries) > 2 for one in readers), 20, "tokens")
    (server,) = servers_of(worker, stack.folder / "llm")
    worker.kill()
    wait_until(lambda: not Path(f"/proc/{server}").exists(), 20, "the server's end")
    second = stack.worker("llm")
    await_settled(stack, ids, 60)
    wanted = [answer_to(one, 30) for one in prompts]
    assert [text_of_job(stack, one) for one in ids] == wanted
    assert [reader.stop().text() for reader in readers] == wanted
    (server,) = servers_of(second, stack.folder / "llm")
    second.stop()
    wait_until(lambda: not Path(f"/proc/{server}").exists(), 20, "the server's end")


@pytest.mark.slow
def test_a_worker_that_is_asked_to_end_lets_jobs_go_on_elsewhere(stack: Stack) -> None:
    stack.environment["LANEFLEET_CATALOG"] = write_catalog(stack.folder, llm={})
    worker = stack.worker("llm", LANEFLEET_SHUTDOWN_GRACE_SECONDS="3")
    ids = ask(stack, "short !slow:20 ", stream=True, max_tokens=20)
    ids += ask(stack, "long !slow:20 ", stream=True, max_tokens=200)
    readers = [Reader(stack.redis, one).start() for one in ids]
    wait_until(lambda: all(one.entries for one in readers), 20, "tokens")
    worker.stop()
    assert stack.states(ids) == {"succeeded": 1, "queued": 1}
    stack.worker("llm")
    await_settled(stack, ids, 60)
    wanted = [answer_to("short !slow:20 ", 20), answer_to("long !slow:20 ", 200)]
    assert [text_of_job(stack, one) for one in ids] == wanted
    assert [reader.stop().text() for reader in readers] == wanted
    records = [stack.record(one) for one in ids]
    assert {record.attempts for record in records if record} == {1}
