"""A small real server with OpenAI's interface, in a process of its own; it needs aiohttp alone.

Run by path: `openai_server.py --state FOLDER (--port N | --socket PATH) [--gate FILE]`. Each word
of an answer is a formula of the seed, the choice and the text before it, so that any process can
work out an answer (`answer_to`), and one that is continued goes on as it would have.

Words that begin with `!` at the end of a prompt ask for more; its first word is its name. N is the
token, counted from 0 over the whole answer; `once` is once for a name, over restarts too:
`!die:N` (SIGKILL, once), `!always-die:N`, `!hang:N`, `!cut:N` (ends the stream, once), `!error:N`
(an error amid the stream), `!busy` (429, once), `!status:N`, `!long:N` (400, over a context of N),
`!key:N` (a status that repeats the key), `!more` (does not keep to max_tokens), `!stay` (does not
close what it has ended),
`!huge` (an event of 2 MiB), `!characters` (emoji in two writes and as two JSON halves), `!slow:MS`
(a token), `!other` (another text the second time), `!json` (no JSON), `!end:N` (a stop).

What it saw is in FOLDER: `requests` (a line of JSON each), `environment`, and as files named so
`open` and `most` (streams) and `left` (streams that the client closed). While FOLDER/sick exists it
is not healthy; while GATE is missing neither.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from aiohttp import web

_WORDS = (
    "river hill road lamp bird stone cloud boat field glass bread clock tree door song voice night "
    "morning winter rain goes comes falls turns waits sings opens burns grows sleeps ä 漢字"
)
WORDS = tuple(_WORDS.split())
MODEL = "tiny"


def next_token(text: str, seed: int, choice: int) -> int:
    """The token that follows this text."""
    about = f"{text.rstrip()}|{seed}|{choice}".encode()
    return int.from_bytes(blake2b(about, digest_size=4).digest(), "big") % len(WORDS)


def answer_to(prompt: str, count: int, *, seed: int = 0, choice: int = 0) -> str:
    """The first `count` words of the answer to a prompt; see `text_of` for messages."""
    text = prompt
    for _ in range(count):
        text += WORDS[next_token(text, seed, choice)] + " "
    return text[len(prompt) :]


def text_of(messages: list[dict[str, str]]) -> str:
    """Messages as the prompt that they make."""
    return "".join(f"{one['role']}: {one['content']}\n" for one in messages) + "assistant: "


def wishes_of(text: str) -> Mapping[str, int]:
    found = {}
    for word in text.split():
        if word.startswith("!"):
            name, _, at = word[1:].partition(":")
            found[name] = int(at or 0)
    return found


class State:
    """What it remembers, in a folder, as it may be killed."""

    def __init__(self, folder: Path, gate: Path | None) -> None:
        self.folder, self.gate = folder, gate
        self.open = self.most = self.left = 0
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "environment").write_text(json.dumps(dict(os.environ)))
        self.write()

    def write(self) -> None:
        for name in ("open", "most", "left"):
            new = self.folder / f"{name}.new"
            new.write_text(str(getattr(self, name)))
            new.replace(self.folder / name)

    def once(self, *about: object) -> bool:
        """Whether this happens for the first time."""
        name = blake2b(repr(about).encode(), digest_size=8).hexdigest()
        try:
            (self.folder / f"once-{name}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def healthy(self) -> bool:
        return not (self.folder / "sick").exists() and (self.gate is None or self.gate.exists())


class Server:
    """The routes."""

    def __init__(self, state: State) -> None:
        self.state = state

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/health", self.health)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/completions", self.generate)
        app.router.add_post("/v1/chat/completions", self.generate)
        return app

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response(status=200 if self.state.healthy() else 503)

    async def models(self, request: web.Request) -> web.Response:
        if refused := _unauthorized(request):
            return refused
        if not self.state.healthy():
            return web.Response(status=503)
        return web.json_response({"data": [{"id": MODEL, "max_model_len": 4096}]})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        with (self.state.folder / "requests").open("a") as file:
            file.write(json.dumps(body) + "\n")
        if refused := _unauthorized(request) or self._refused(body):
            return refused
        self.state.open += 1
        self.state.most = max(self.state.most, self.state.open)
        self.state.write()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        try:
            await response.prepare(request)
            await Stream(self.state, body, request, response).run()
        except (ConnectionResetError, asyncio.CancelledError):
            self.state.left += 1
            raise
        finally:
            self.state.open -= 1
            self.state.write()
        return response

    def _refused(self, body: dict[str, Any]) -> web.Response | None:
        if body.get("model") != MODEL:
            return _error(404, f"there is no model {body.get('model')}")
        wishes = wishes_of(_prompt(body))
        if "long" in wishes:
            return _error(400, f"This model's maximum context length is {wishes['long']} tokens.")
        if "status" in wishes:
            return _error(wishes["status"], "as\nyou wish\x07 " + "x" * 5000)
        if "key" in wishes:
            return _error(wishes["key"], f"wrong: Bearer {os.environ.get('VLLM_API_KEY', '')}")
        if "busy" in wishes and self.state.once("busy", _prompt(body)):
            return web.json_response({"error": "busy"}, status=429, headers={"Retry-After": "1"})
        return None


class Stream:
    """One answer."""

    def __init__(
        self,
        state: State,
        body: dict[str, Any],
        request: web.Request,
        response: web.StreamResponse,
    ) -> None:
        self.state, self.body, self.request, self.response = state, body, request, response
        self.chat = "messages" in body
        self.prompt = _prompt(body)
        self.wishes = wishes_of(self.prompt)
        self.seed = 0 if body.get("temperature") == 0 else body["seed"]
        self.ended: set[int] = set()
        self.name = next(word for word in self.prompt.split() if not word.endswith(":"))

    async def run(self) -> None:
        if "huge" in self.wishes:
            await self.response.write(b"data: " + b"x" * 2**21 + b"\n\n")
            return
        if "characters" in self.wishes:
            await self._characters()
            return
        n, most = self.body.get("n", 1), self.body["max_tokens"]
        most = 10**6 if "more" in self.wishes else most
        texts = dict.fromkeys(range(n), self.prompt)
        other = "other" in self.wishes and not self.state.once("other", self.name)
        # A prompt ends with its wishes, so what follows the last one was said before.
        said = self.prompt.rpartition("!")[2].split()[1:] if self.wishes else []
        before = len([word for word in said if word != "assistant:"])
        for at in range(most):
            await self._misbehave(before + at)
            if self.wishes.get("cut") == before + at and self.state.once("cut", self.name):
                self.request.transport.abort()
                return
            for choice in range(n):
                token = next_token(texts[choice], self.seed + other, choice)
                texts[choice] += WORDS[token] + " "
                await self._say(choice, token, at, texts[choice][len(self.prompt) :], most)
            if len(self.ended) == n:
                break
        while "stay" in self.wishes:
            await self.response.write(b": still here\n\n")
            await asyncio.sleep(0.05)
        usage = {"prompt_tokens": len(self.prompt.split()), "completion_tokens": (at + 1) * n}
        await self._event({"choices": [], "usage": usage})
        await self.response.write(b"data: [DONE]\n\n")

    async def _misbehave(self, at: int) -> None:
        wishes = self.wishes
        if wishes.get("die") == at and self.state.once("die", self.name):
            os.kill(os.getpid(), signal.SIGKILL)
        if wishes.get("always-die") == at:
            os.kill(os.getpid(), signal.SIGKILL)
        if wishes.get("hang") == at:
            await asyncio.sleep(600)
        if wishes.get("error") == at:
            await self._event({"error": {"message": "the engine is dead", "code": 500}})
        if wishes.get("json", -1) == at:
            await self.response.write(b"data: {not json\n\n")
        await asyncio.sleep(wishes.get("slow", 0) / 1000)

    async def _say(self, choice: int, token: int, at: int, said: str, most: int) -> None:
        if choice in self.ended:
            return
        finish = "length" if at + 1 >= most else None
        text = WORDS[token] + " "
        for stop in self.body.get("stop", ()):
            if (found := said.find(stop)) >= 0:
                finish, text = "stop", text[: max(0, found - (len(said) - len(text)))]
        if self.wishes.get("end") == at:
            finish = "stop"
        if finish:
            self.ended.add(choice)
        one: dict[str, Any] = {"index": choice, "finish_reason": finish}
        one |= {"delta": {"content": text}} if self.chat else {"text": text}
        if self.body.get("return_token_ids"):
            one["token_ids"] = [token]
            if not at:
                one["prompt_token_ids"] = list(range(len(self.prompt.split())))
        one |= self._logprobs(token)
        await self._event({"choices": [one]})

    def _logprobs(self, token: int) -> dict[str, Any]:
        name, asked = WORDS[token] + " ", self.body.get("logprobs")
        if asked is None:
            return {}
        if not self.chat:
            top = {WORDS[(token + one) % len(WORDS)]: -0.5 - one for one in range(asked + 1)}
            return {"logprobs": {"tokens": [name], "token_logprobs": [-0.5], "top_logprobs": [top]}}
        tops = [
            {"token": WORDS[(token + one) % len(WORDS)], "logprob": -0.5 - one, "bytes": None}
            for one in range(self.body["top_logprobs"])
        ]
        content = [{"token": name, "logprob": -0.5, "bytes": None, "top_logprobs": tops}]
        return {"logprobs": {"content": content}}

    async def _characters(self) -> None:
        """`🙂漢🚀` and an end: one emoji cut amid its bytes, the other amid its JSON."""
        whole = json.dumps({"choices": [{"index": 0, "text": "🙂"}]}, ensure_ascii=False)
        line = f"data: {whole}\n\n".encode()
        half = line.index("🙂".encode()) + 2
        for part in (line[:half], line[half:]):
            await self.response.write(part)
            await asyncio.sleep(0.05)
        for text in ("漢\\ud83d", "\\ude80"):
            data = '{"choices": [{"index": 0, "text": "' + text + '"}]}'
            await self.response.write(f"data: {data}\r\n\r\n: a comment\r\n".encode())
        await self._event({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
        await self.response.write(b"data: [DONE]\n\n")

    async def _event(self, found: dict[str, Any]) -> None:
        await self.response.write(b"data: " + json.dumps(found).encode() + b"\n\n")


def _prompt(body: dict[str, Any]) -> str:
    if "messages" in body:
        messages = list(body["messages"])
        if body.get("continue_final_message"):
            last = messages.pop()
            return text_of(messages) + last["content"] + " "
        return text_of(messages)
    prompt = body["prompt"]
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt)) + " "


def _unauthorized(request: web.Request) -> web.Response | None:
    key = os.environ.get("VLLM_API_KEY", "")
    sent = request.headers.get("Authorization", "")
    return None if sent == (f"Bearer {key}" if key else "") else _error(401, "who are you?")


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--port", type=int)
    parser.add_argument("--socket")
    parser.add_argument("--gate", type=Path)
    asked = parser.parse_args()
    app = Server(State(asked.state, asked.gate)).app()
    print("started", os.environ.get("VLLM_API_KEY", ""), flush=True)
    web.run_app(
        app,
        **({"path": asked.socket} if asked.socket else {"host": "127.0.0.1", "port": asked.port}),
        print=None,
        handler_cancellation=True,
    )


if __name__ == "__main__":
    main()
