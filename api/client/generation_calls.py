"""The requests of generation as values, for both clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .calls import HOLD_SECONDS, Call, dump_json, events, submit_headers

__all__ = ("batch_generate", "generate", "generate_stream", "tokens")

_JSON = {"Content-Type": "application/json"}
_BATCH_SECONDS = 60.0


def generate(
    text: str,
    model: str | None,
    options: Mapping[str, Any],
    timeout: float | None,
    key: str | None,
) -> Call:
    """Text, held for as long as one request is."""
    wait = HOLD_SECONDS if timeout is None else min(timeout, HOLD_SECONDS)
    headers = {**_JSON, **submit_headers(wait, key)}
    content = dump_json(_body(text, model, options))
    return Call("POST", "/v1/generate", {"content": content, "headers": headers}, wait=wait)


def generate_stream(
    text: str, model: str | None, options: Mapping[str, Any], key: str | None
) -> Call:
    """Text as it is made."""
    headers = {**_JSON, **submit_headers(None, key), "Accept": "text/event-stream"}
    content = dump_json(_body(text, model, {**options, "stream": True}))
    return Call("POST", "/v1/generate", {"content": content, "headers": headers}, lasting=True)


def tokens(job_id: str, last_id: str | None, on_disconnect: str) -> Call:
    """What a job says after this event."""
    call = events(job_id, last_id)
    options = {**call.options, "params": {"on_disconnect": on_disconnect}}
    return Call(call.method, call.path, options, lasting=True)


def batch_generate(requests: Sequence[Mapping[str, Any]], batch_id: str | None) -> Call:
    """Several at once."""
    body: dict[str, Any] = {"requests": [dict(one) for one in requests]}
    if batch_id is not None:
        body["batch_id"] = batch_id
    options = {"content": dump_json(body), "headers": _JSON}
    return Call("POST", "/v1/batch-generate", options, repeatable=False, wait=_BATCH_SECONDS)


def _body(text: str, model: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    named = {} if model is None else {"model": model}
    return {"text": text, **named, **options}
