"""What each kind of server knows: the options of a request by the names that it gives them.

An allow-list: what is not named here is refused where a request sets it, as servers ignore what
they do not know. Where a server would put a default of its own, or of its model, in place of an
option that is left out, the option is always sent, so that every engine samples alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import InvalidInput
from common.generation.options import GenerateOptions
from worker.models.generation.server_options import EngineName
from worker.models.remote import Request, Spoken

_OURS = frozenset(
    {"max_tokens", "seed", "echo", "stream", "on_disconnect", "on_deadline", "logprobs"}
    | {"json_schema", "truncate"}
)
"""Options that are no plain field: handled below, or by the worker."""
_COMMON = {
    "temperature": "temperature",
    "top_p": "top_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "stop": "stop",
}
_SAMPLING = {**_COMMON, "top_k": "top_k", "min_p": "min_p"}
_ALWAYS = frozenset({"temperature", "top_p"})
_WHOLE = frozenset({"top_k", "min_p", "repetition_penalty"})
"""Always sent too where a server knows them: models bring values of their own."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of server."""

    fields: Mapping[str, str]
    """By our option, the server's."""
    health: str = "/health"
    key_variable: str = ""
    """In which environment variable it expects its API key."""
    all_tokens: int = 0
    """Its value of `top_k` for all."""
    omits_whole_top_p: bool = False
    """Whether it refuses a `top_p` of 1."""
    seeds: int = 2**63
    schemas: frozenset[str] = frozenset({"chat"})
    """Where it takes a schema: for messages (`chat`), for a prompt (`text`)."""
    logprobs: frozenset[str] = frozenset({"chat", "text"})
    takes_tokens: bool = True
    """Whether a prompt may be tokens."""
    tells_tokens: bool = False
    """Whether it sends the ids of the tokens, if asked."""
    truncates: bool = False
    continues_chat: bool = False
    """Whether it goes on with a last message of the assistant's."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """By option, why it is refused, where that needs a sentence."""


ENGINES: Mapping[EngineName, Engine] = {
    "vllm": Engine(
        {
            **_SAMPLING,
            "repetition_penalty": "repetition_penalty",
            "include_stop": "include_stop_str_in_output",
            "min_tokens": "min_tokens",
            "logit_bias": "logit_bias",
            "n": "n",
        },
        key_variable="VLLM_API_KEY",
        schemas=frozenset({"chat", "text"}),
        tells_tokens=True,
        truncates=True,
        continues_chat=True,
    ),
    "sglang": Engine(
        {
            **_SAMPLING,
            "repetition_penalty": "repetition_penalty",
            "include_stop": "no_stop_trim",
            "min_tokens": "min_tokens",
            "logit_bias": "logit_bias",
            "n": "n",
        },
        all_tokens=-1,
        seeds=2**31,
        schemas=frozenset({"chat", "text"}),
        continues_chat=True,
    ),
    "llama.cpp": Engine(
        {**_SAMPLING, "repetition_penalty": "repeat_penalty", "logit_bias": "logit_bias"},
        key_variable="LLAMA_API_KEY",
        seeds=2**31,
        schemas=frozenset({"chat", "text"}),
    ),
    "tgi": Engine(
        {name: name for name in _COMMON if name != "presence_penalty"},
        key_variable="API_KEY",
        omits_whole_top_p=True,
        takes_tokens=False,
        logprobs=frozenset({"chat"}),
        lacks={"presence_penalty": "it takes this for a penalty of another kind"},
    ),
    "openai": Engine(
        {**_COMMON, "logit_bias": "logit_bias", "n": "n"},
        health="/v1/models",
    ),
}


def refuse(name: EngineName, request: Request) -> None:
    """Raise InvalidInput for the first option that this kind of server does not know."""
    engine, options = ENGINES[name], request.options
    kind = "chat" if request.messages else "text"
    plain = GenerateOptions()
    for option in GenerateOptions.model_fields:
        known = option in _OURS or option in engine.fields
        if not known and getattr(options, option) != getattr(plain, option):
            raise _lacking(name, option, engine.lacks.get(option, ""))
    if options.json_schema is not None and kind not in engine.schemas:
        raise _lacking(name, "json_schema", "it takes one with `messages` only")
    if options.logprobs is not None and kind not in engine.logprobs:
        raise _lacking(name, "logprobs", "it tells them with `messages` only")
    if options.truncate and not engine.truncates:
        raise _lacking(name, "truncate", "shorten the prompt before you send it")
    if options.echo and not isinstance(request.prompt, str):
        raise InvalidInput("params.echo: only a prompt that is text can be repeated")
    if options.seed is not None and options.seed >= engine.seeds:
        raise InvalidInput(
            f"params.seed: the server of this model ({name}) takes seeds below {engine.seeds}"
        )
    if isinstance(request.prompt, tuple) and not engine.takes_tokens:
        raise InvalidInput(f"the server of this model ({name}) takes no tokens; send the text")


def _lacking(name: EngineName, option: str, why: str) -> InvalidInput:
    tail = f": {why}" if why else "; leave it out"
    return InvalidInput(
        f"params.{option}: the server of this model ({name}) has no such option{tail}"
    )


def can_continue(name: EngineName, request: Request, said: Spoken) -> bool:
    """Whether this kind of server can go on from what one choice has said, as if it had said it."""
    engine, options = ENGINES[name], request.options
    if options.n > 1 or options.json_schema is not None:
        return False
    if isinstance(request.prompt, tuple):
        return len(said.tokens) == said.count
    # Templates strip what a message ends with.
    return not request.messages or (engine.continues_chat and said.text == said.text.strip())


def body_of(
    name: EngineName, model: str, request: Request, context: int | None, said: Spoken
) -> dict[str, Any]:
    """The request to the server, which is to go on from `said`."""
    engine, options, count = ENGINES[name], request.options, said.count
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": options.max_tokens - count,
        "seed": request.seed,
    }
    body |= _sampling(engine, options, count)
    if request.messages:
        body |= _chat(request, said.text)
    else:
        tokens = isinstance(request.prompt, tuple)
        body["prompt"] = (
            [*(request.prompt or ()), *said.tokens] if tokens else f"{request.prompt}{said.text}"
        )
        if options.logprobs is not None:
            body["logprobs"] = options.logprobs
    if options.json_schema is not None:
        body |= _schema(name, options.json_schema, chat=bool(request.messages))
    if engine.tells_tokens:
        body["return_token_ids"] = True
    if options.truncate and context is not None:
        body["truncate_prompt_tokens"] = max(1, context - (options.max_tokens - count))
        body["truncation_side"] = "left"
    return body


def _sampling(engine: Engine, options: GenerateOptions, count: int) -> dict[str, Any]:
    plain, found = GenerateOptions(), {}
    for option, theirs in engine.fields.items():
        value = getattr(options, option)
        if option in _ALWAYS or option in _WHOLE or value != getattr(plain, option):
            found[theirs] = list(value) if isinstance(value, tuple) else value
    if "top_k" in found and not found["top_k"]:
        found["top_k"] = engine.all_tokens
    if found["top_p"] == 1 and engine.omits_whole_top_p:
        del found["top_p"]
    if "min_tokens" in found:
        found["min_tokens"] = max(0, options.min_tokens - count)
    return found


def _chat(request: Request, text: str) -> dict[str, Any]:
    messages: list[Mapping[str, str]] = list(request.messages)
    found: dict[str, Any] = {"messages": messages}
    if text:
        messages.append({"role": "assistant", "content": text})
        found |= {"continue_final_message": True, "add_generation_prompt": False}
    if request.options.logprobs is not None:
        found |= {"logprobs": True, "top_logprobs": request.options.logprobs}
    return found


def _schema(name: EngineName, schema: dict[str, Any], *, chat: bool) -> dict[str, Any]:
    if name == "tgi":
        return {"response_format": {"type": "json_object", "value": schema}}
    if name == "llama.cpp" and not chat:
        return {"json_schema": schema}
    named = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}
