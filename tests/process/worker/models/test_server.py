"""The handler `openai-server` with a real server: started, asked, killed, hung."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.cli.fleet import free_port
from common.catalog import ModelSpec
from common.errors import (
    AnswerLost,
    ConfigurationError,
    InvalidInput,
    PromptTooLong,
    ServerFailed,
    ServerRefused,
)
from tests.support import openai_server
from tests.support.openai_server import answer_to, text_of
from tests.support.stack import Process, wait_until
from worker.models.generation import server as server_module
from worker.models.generation.server import Server
from worker.models.remote import Answer, Delta

COMMAND = [sys.executable, "-I", openai_server.__file__]


def spec(**options: Any) -> ModelSpec:
    options = {"engine": "vllm", "health_seconds": 0.1, "stop_seconds": 2, **options}
    return ModelSpec(name="llm", handler="openai-server", options=options)


def command(state: Path, *more: str) -> list[str]:
    return [*COMMAND, "--state", str(state), "--port", "{port}", *more]


@contextmanager
def loaded(**options: Any) -> Iterator[Server]:
    server = Server()
    server.load(spec(**options), "cpu")
    try:
        yield server
    finally:
        server.unload()


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(state: Path) -> Iterator[Server]:
    """One server that the handler has started, of which no test leaves anything."""
    with loaded(command=command(state), slots=4, max_line_bytes=2**16) as made:
        yield made


class Asked:
    """One request and what came of it."""

    def __init__(self, server: Server, value: Any, **params: Any) -> None:
        params = {"temperature": 0, "max_tokens": 6, **params}
        self.server = server
        self.request = server.decode(value, params)
        self.request.seed = self.request.options.seed or 0
        self.answer = Answer.to(self.request, streamed=True)
        self.deltas: list[Delta] = []

    def start(self) -> Any:
        work = self.server.answer(self.answer, self.deltas.append)
        return asyncio.run_coroutine_threadsafe(work, self.server.loop)

    def run(self) -> Asked:
        self.start().result(20)
        return self

    @property
    def text(self) -> str:
        return "".join(one.text for one in self.deltas)

    @property
    def result(self) -> Any:
        return self.server.encode(self.answer)


def seen(state: Path, name: str) -> int:
    return int((state / name).read_text())


def test_a_prompt_is_answered_and_told_as_it_comes(server: Server) -> None:
    asked = Asked(server, "hello ").run()
    assert asked.text == answer_to("hello ", 6)
    assert len(asked.deltas) == 6
    assert asked.result == {
        "text": asked.text,
        "finish_reason": "length",
        "usage": {"prompt_tokens": 1, "completion_tokens": 6, "total_tokens": 7},
        "seed": 0,
    }


def test_messages_choices_and_logprobs(server: Server) -> None:
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]
    asked = Asked(server, {"messages": messages}, n=2, logprobs=1, temperature=1, seed=7).run()
    first, second = asked.result["choices"]
    prompt = text_of(messages)
    assert first["text"] == answer_to(prompt, 6, seed=7)
    assert second["text"] == answer_to(prompt, 6, seed=7, choice=1)
    assert asked.result["usage"]["completion_tokens"] == 12
    assert [one["token"] for one in second["logprobs"]] == [
        word + " " for word in second["text"].split()
    ]
    assert all(len(one["top"]) == 1 for one in first["logprobs"])
    completion = Asked(server, "hello ", logprobs=2).run()
    (choice,) = completion.result["choices"]
    assert [len(one["top"]) for one in choice["logprobs"]] == [2] * 6
    assert all(type(one["id"]) is int for one in choice["logprobs"])


def test_a_stop_string_and_the_prompt_repeated(server: Server) -> None:
    third = answer_to("hello ", 3).split()[-1]
    asked = Asked(server, "hello ", stop=[third]).run()
    assert asked.result["text"] == answer_to("hello ", 2)
    assert asked.result["finish_reason"] == "stop"
    asked = Asked(server, "hello ", echo=True).run()
    assert asked.text == asked.result["text"] == "hello " + answer_to("hello ", 6)


def test_characters_cut_amid_their_bytes_and_their_json_arrive_whole(server: Server) -> None:
    asked = Asked(server, "x !characters ").run()
    assert [one.text for one in asked.deltas if one.text] == ["🙂", "漢", "🚀"]
    assert asked.result["text"] == "🙂漢🚀"


@pytest.mark.parametrize(
    ("wish", "error", "said"),
    [
        ("status:400", InvalidInput, r"refused the request: as you wish\? x+$"),
        ("long:4096", PromptTooLong, "context length is 4096"),
        ("status:422", InvalidInput, "refused the request"),
        ("status:404", ServerRefused, "answered 404"),
        ("status:302", ServerRefused, "answered 302"),
        ("status:500", ServerFailed, "answered 500"),
        ("key:400", InvalidInput, r"wrong: Bearer \*\*\*$"),
        ("key:500", ServerFailed, r"wrong: Bearer \*\*\*$"),
        ("busy", ServerFailed, "answered 429"),
        ("huge", ServerFailed, "more than 65,536 bytes"),
        ("error:2", ServerFailed, "the engine is dead"),
        ("json:2", ServerFailed, "no JSON"),
        ("cut:2", ServerFailed, "failed|broke"),
    ],
)
def test_what_goes_wrong_says_what_becomes_of_the_job(
    server: Server, wish: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        Asked(server, f"{wish} !{wish} ").run()
    assert len(str(raised.value)) < 700
    recovered = asyncio.run_coroutine_threadsafe(server.recovered(), server.loop).result(20)
    assert recovered is False, "the server is well"
    wait_until(lambda: server.slots > 0, 20, "slots")
    Asked(server, "hello ").run()
    assert server.slots == 4


def test_a_server_that_says_more_than_was_asked_for_is_cut_off(
    server: Server, state: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(server_module, "_USAGE_SECONDS", 0.2)
    asked = Asked(server, "hello !more ").run()
    assert asked.result["finish_reason"] == "length"
    assert asked.answer.choices[0].count <= 7
    wait_until(lambda: seen(state, "open") == 0, 20, "the stream's end")


def test_an_answer_that_has_ended_needs_no_end_of_its_stream(
    server: Server, state: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(server_module, "_USAGE_SECONDS", 0.2)
    asked = Asked(server, "hello !stay ").run()
    assert asked.result["text"] == answer_to("hello !stay ", 6)
    assert asked.result["usage"]["completion_tokens"] == 6
    wait_until(lambda: seen(state, "open") == 0, 20, "the stream's end")


def test_a_stream_that_was_cut_goes_on_from_what_was_said(server: Server, state: Path) -> None:
    asked = Asked(server, "goes-on !cut:3 ")
    with pytest.raises(ServerFailed):
        asked.run()
    assert len(asked.text.split()) == 3
    asked.run()
    assert asked.text == asked.result["text"] == answer_to("goes-on !cut:3 ", 6)
    assert asked.result["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 6,
        "total_tokens": 8,
    }
    last = json.loads((state / "requests").read_text().splitlines()[-1])
    assert last["max_tokens"] == 3


@pytest.mark.parametrize("wish", ["", "!other "])
def test_messages_that_were_cut_are_answered_again_and_told_once(server: Server, wish: str) -> None:
    value = {"messages": [{"role": "user", "content": f"again{len(wish)} {wish}!cut:3 "}]}
    asked = Asked(server, value)
    with pytest.raises(ServerFailed):
        asked.run()
    if wish:
        with pytest.raises(AnswerLost):
            asked.run()
        assert len(asked.text.split()) == 3
    else:
        asked.run()
        assert asked.text == answer_to(text_of(value["messages"]), 6)


def test_a_cancelled_answer_closes_its_stream(server: Server, state: Path) -> None:
    before = seen(state, "left")
    asked = Asked(server, "long !slow:20 ", max_tokens=1000)
    work = asked.start()
    wait_until(lambda: asked.deltas, 20, "a token")
    work.cancel()
    wait_until(lambda: seen(state, "left") == before + 1, 20, "the stream's end")
    assert seen(state, "open") == 0


def test_a_server_that_says_nothing_is_given_up(state: Path) -> None:
    options = {"command": command(state), "silence_seconds": 0.3}
    with loaded(**options) as server, pytest.raises(ServerFailed, match="connection"):
        Asked(server, "quiet !hang:2 ").run()


def test_a_killed_child_is_started_again_and_answers_go_on(tmp_path: Path) -> None:
    with loaded(command=command(tmp_path / "state")) as server:
        asked = Asked(server, "killed !die:3 ")
        with pytest.raises(ServerFailed):
            asked.run()
        recovered = asyncio.run_coroutine_threadsafe(server.recovered(), server.loop)
        assert recovered.result(20) is True
        asked.run()
        assert asked.text == answer_to("killed !die:3 ", 6)


def test_a_child_that_hangs_is_started_again(tmp_path: Path) -> None:
    with loaded(command=command(tmp_path / "state"), hang_seconds=0.2) as server:
        before = (tmp_path / "state" / "environment").stat().st_mtime_ns
        (tmp_path / "state" / "sick").touch()
        wait_until(lambda: server.slots == 0, 20, "the look")
        wait_until(
            lambda: (tmp_path / "state" / "environment").stat().st_mtime_ns != before,
            20,
            "another child",
        )
        (tmp_path / "state" / "sick").unlink()
        wait_until(lambda: server.slots, 20, "its health")
        assert Asked(server, "hello ").run().text == answer_to("hello ", 6)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_nothing_of_a_child_is_left_when_it_is_unloaded(tmp_path: Path) -> None:
    script = tmp_path / "stubborn.sh"
    script.write_text(
        "trap '' TERM\n"
        f"{' '.join(COMMAND)} --state {tmp_path / 'state'} --port $1 & echo $! > {tmp_path}/pid\n"
        "while :; do sleep 1; done\n"
    )
    with loaded(command=["/bin/sh", str(script), "{port}"], stop_seconds=0.2):
        grandchild = int((tmp_path / "pid").read_text())
        assert alive(grandchild)
    wait_until(lambda: not alive(grandchild), 20, "the end of the group")


def test_it_can_listen_on_a_socket(tmp_path: Path) -> None:
    arguments = [*COMMAND, "--state", str(tmp_path), "--socket", "{socket}"]
    with loaded(command=arguments) as server:
        assert Asked(server, "hello ").run().text == answer_to("hello ", 6)


def test_a_child_sees_none_of_our_secrets(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("LANEFLEET_REDIS_URL", "redis://:s3cret@h")
    monkeypatch.setenv("HTTPS_PROXY", "http://s3cret")
    with loaded(command=command(tmp_path), environment={"GREETING": "hello"}):
        found = json.loads((tmp_path / "environment").read_text())
    assert found["GREETING"] == "hello"
    assert len(found["VLLM_API_KEY"]) > 40
    assert "s3cret" not in json.dumps(found)
    assert not [name for name in found if name.startswith("LANEFLEET")]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"command": ["/is/missing"]}, ConfigurationError, "No such file"),
        ({"command": ["/bin/sh", "-c", "echo bad argument; exit 3"]}, ConfigurationError, "bad a"),
        ({"command": ["/bin/sleep", "60"], "start_seconds": 0.3}, ServerFailed, "not healthy"),
        ({"url": "http://127.0.0.1:9", "start_seconds": 0.3}, ServerFailed, "at http://127.0.0.1"),
    ],
)
def test_a_server_that_does_not_start_says_why(
    options: Any, error: type[Exception], said: str
) -> None:
    server = Server()
    with pytest.raises(error, match=said):
        server.load(spec(**options), "cpu")
    assert not server._thread.is_alive()


def test_a_server_that_runs_already_is_used_and_left_alone(tmp_path: Path) -> None:
    port, sick = free_port(), tmp_path / "state" / "sick"
    arguments = [*COMMAND, "--state", str(tmp_path / "state"), "--port", str(port)]
    process = Process(arguments, {"VLLM_API_KEY": "the-key"}, tmp_path / "log").start()
    key = tmp_path / "key"
    key.write_text("the-key\n")
    try:
        with loaded(url=f"http://127.0.0.1:{port}/v1", api_key_file=str(key)) as server:
            told: list[int] = []
            server.on_change(lambda: told.append(server.slots))
            assert Asked(server, "hello ").run().text == answer_to("hello ", 6)
            sick.touch()
            wait_until(lambda: told == [0], 20, "no slots")
            sick.unlink()
            wait_until(lambda: told == [0, 16], 20, "slots again")
            process.kill()
            wait_until(lambda: server.slots == 0, 20, "no slots")
        key.write_text("another")
        process = Process(arguments, {"VLLM_API_KEY": "the-key"}, tmp_path / "log").start()
        server = Server()
        with pytest.raises(ServerRefused, match="lists no model"):
            server.load(spec(url=f"http://127.0.0.1:{port}", api_key_file=str(key)), "cpu")
        assert process.alive
    finally:
        process.kill()


def test_health_gates_the_load(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    server = Server()
    loop_ready = asyncio.new_event_loop()
    try:
        load = loop_ready.run_in_executor(
            None, server.load, spec(command=command(tmp_path / "state", "--gate", str(gate))), "cpu"
        )
        wait_until(lambda: (tmp_path / "state" / "open").exists(), 20, "the child")
        assert not load.done()
        gate.touch()
        loop_ready.run_until_complete(load)
        assert server.slots == 16
        server.unload()
    finally:
        loop_ready.close()
