"""The handler `openai-server`: a model that runs in a server with OpenAI's interface.

vLLM first; SGLang, llama.cpp, TGI and what speaks like them. Batching, paged memory, prefix reuse,
speculation and structured output are the server's own; leases, fairness, cancelation, deadlines and
results stay the fleet's. See docs/generation-servers.md.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import aclosing, suppress
from typing import Any

from common.catalog import ModelSpec
from common.errors import ConfigurationError, InvalidInput, ServerFailed
from worker.models.generation.server_answer import Telling
from worker.models.generation.server_child import Address, Child
from worker.models.generation.server_engines import ENGINES, body_of, refuse
from worker.models.generation.server_events import Lines, read_event
from worker.models.generation.server_input import read_request
from worker.models.generation.server_link import Link
from worker.models.generation.server_options import read_key, read_server_options
from worker.models.remote import Answer, Emit, Request
from worker.models.sharding import refuse_missing_gpus

_LOOK_SECONDS = 0.1
_STOP_SECONDS = 5.0
_PART_OF_LOAD = 0.9
"""A start that takes longer than this part of the model's limit is ended by us, child and all."""
_CHARACTERS_A_TOKEN = 4
_USAGE_SECONDS = 5.0
"""Longest wait for the usage behind an answer that has ended."""


class Server:
    """A server, its loop and its health; see RemoteGenerator."""

    def __init__(self) -> None:
        self.taken = 0
        self.most = 0
        self.seeds = 2**63
        self.patience_seconds = 0.0
        self.loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def slots(self) -> int:
        """Jobs at once, now: none while it is not healthy."""
        return self._link.room

    def load(self, spec: ModelSpec, device: str) -> None:
        """Start it, or find it, and wait until it is healthy."""
        self._options = options = read_server_options(spec)
        refuse_missing_gpus(spec.name, options.command, options.environment)
        if spec.warm_up is not None:
            raise ConfigurationError(
                f"models.{spec.name}.warm_up: a server warms itself up; remove this"
            )
        engine = ENGINES[options.engine]
        self.seeds, self.patience_seconds = engine.seeds, options.patience_seconds
        self.most = options.slots
        key = secrets.token_urlsafe(32) if options.command else read_key(options)
        self._link = Link(spec.name, options, key)
        self._child: Child | None = None
        if options.command:
            self._child = Child(
                *(spec.name, device, options, engine.key_variable, key),
                on_start=self._on_loop(self._link.at),
                on_end=self._on_loop(self._link.ended),
            )
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="server-io", daemon=True)
        self._thread.start()
        limit = options.start_seconds
        if spec.load_timeout_seconds:
            limit = min(limit, spec.load_timeout_seconds * _PART_OF_LOAD)
        try:
            self._run(self._begin(limit), limit + _STOP_SECONDS)
        except BaseException:
            self.unload()
            raise

    def decode(self, value: Any, params: Mapping[str, Any]) -> Request:
        """The checked request."""
        request = read_request(value, params)
        refuse(self._options.engine, request)
        if request.options.truncate and self._context is None:
            raise InvalidInput(
                "params.truncate: the server does not say how long a prompt may be; set "
                "options.context_tokens in the catalog"
            )
        return request

    def cost(self, item: Request) -> float:
        """Tokens of the prompt, guessed from its length, and of all answers."""
        if isinstance(item.prompt, tuple):
            prompt = len(item.prompt)
        else:
            texts = [item.prompt or "", *(one["content"] for one in item.messages)]
            prompt = sum(map(len, texts)) // _CHARACTERS_A_TOKEN
        return float(prompt + item.options.n * item.options.max_tokens)

    async def answer(self, answer: Answer, emit: Emit) -> None:
        """Go on with this answer to its end; see RemoteGenerator."""
        options, request = self._options, answer.request
        telling = Telling(options.engine, answer, emit)
        said = telling.begin()
        if answer.finished:
            return
        body = body_of(options.engine, self._model, request, self._context, said)
        try:
            async with asyncio.timeout(None) as limit:
                await self._hear(body, answer, telling, limit)
        except (ServerFailed, TimeoutError):
            if not answer.finished:
                raise
        if not answer.finished:
            raise ServerFailed("the model's server broke its answer off")

    async def _hear(
        self, body: dict[str, Any], answer: Answer, telling: Telling, limit: asyncio.Timeout
    ) -> None:
        """Take the events of one attempt. An answer that has ended is not waited for much longer:
        nothing comes but its usage.
        """
        request = answer.request
        path = "/v1/chat/completions" if request.messages else "/v1/completions"
        lines = Lines(self._options.max_line_bytes)
        async with aclosing(self._link.stream(path, body)) as chunks:
            async for chunk in chunks:
                for line in lines.feed(chunk):
                    event = read_event(line, request.options.n, self._link.secret)
                    if event is not None:
                        telling.take(event)
                        if event.done:
                            return
                if answer.finished and limit.when() is None:
                    limit.reschedule(asyncio.get_running_loop().time() + _USAGE_SECONDS)

    async def recovered(self) -> bool:
        """After ServerFailed: false where the server is well; else true, once it is again."""
        if await self._link.probe():
            return False
        await self._link.until_up()
        return True

    def on_change(self, tell: Callable[[], None]) -> None:
        """Have this called when `slots` may have changed."""
        self._link.on_change(tell)

    def encode(self, output: Answer) -> Any:
        """The result of a job."""
        return result_of(output)

    def unload(self) -> None:
        """End the child, the connections and the loop."""
        if self._child is not None:
            self._child.stop()
        with suppress(FutureTimeout, RuntimeError):
            self._run(self._end(), _STOP_SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_STOP_SECONDS)
        if not self._thread.is_alive():
            self.loop.close()

    # -- internals ---------------------------------------------------------

    def _run(self, work: Any, seconds: float) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def _on_loop(self, function: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            with suppress(RuntimeError):  # the loop was closed
                self.loop.call_soon_threadsafe(function, *args)

        return call

    async def _begin(self, seconds: float) -> None:
        options, until = self._options, time.monotonic() + seconds
        if self._child is not None:
            self._child.start()
        else:
            self._link.at(Address(options.url))
        self._tasks.append(asyncio.create_task(self._link.look()))  # else they may be collected
        while not self._link.is_up:
            if self._child is not None and self._child.ended:
                raise ConfigurationError(self._child.ended)
            if time.monotonic() > until:
                where = f"at {options.url} " if options.url else ""
                raise ServerFailed(f"the server {where}was not healthy within {seconds:g} s")
            await asyncio.sleep(_LOOK_SECONDS)
        self._model, self._context = options.model, options.context_tokens
        if not (self._model and self._context):
            await self._ask_model()
        if self._child is not None:
            self._tasks.append(asyncio.create_task(self._end_a_hanging_child()))

    async def _ask_model(self) -> None:
        try:
            model, context = await self._link.model_and_context()
        except ServerFailed:
            if not self._model:
                raise
            return
        self._model = self._model or model
        self._context = self._context or context

    async def _end_a_hanging_child(self) -> None:
        """Have the child started again where it runs but is not healthy: for as long as a start may
        take, or for a shorter time where it was healthy before.
        """
        options, child, link = self._options, self._child, self._link
        assert child is not None
        began, was_up = child.began, link.is_up
        while True:
            await asyncio.sleep(min(options.health_seconds, options.hang_seconds))
            if child.began != began:
                began, was_up = child.began, False
            was_up = was_up or link.is_up
            down = time.monotonic() - max(link.down_since, began)
            if not link.is_up and down > (
                options.hang_seconds if was_up else options.start_seconds
            ):
                child.end()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.close()


def result_of(answer: Answer) -> dict[str, Any]:
    """The JSON of a generation: its text, why it ended, what it took; all choices, if several."""
    request, choices = answer.request, answer.choices
    completion = answer.completion_tokens or sum(choice.count for choice in choices)
    found: dict[str, Any] = {
        "text": request.echoed + choices[0].text,
        "finish_reason": choices[0].finish,
        "usage": {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": answer.prompt_tokens + completion,
        },
        "seed": request.seed,
    }
    if len(choices) > 1 or request.options.logprobs is not None:
        found["choices"] = [
            {"text": request.echoed + one.text, "finish_reason": one.finish}
            | ({"logprobs": one.logprobs} if request.options.logprobs is not None else {})
            for one in choices
        ]
    return found
