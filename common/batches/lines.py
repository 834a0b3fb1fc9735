"""Reads the lines of a batch's file: what makes it no batch, and the jobs that a line asks for.

Pure: no I/O. A line that is not a request at all (no JSON, no `custom_id`, or one that was there
before) makes the whole file none, and nothing of it runs; a request that is wrong fails alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from common.batches.records import line_job_id
from common.catalog import Catalog
from common.errors import FleetError, InvalidInput, MessageTooLarge
from common.generation.inputs import TASK, check_prompt, options_of
from common.generation.openai_requests import CHAT, COMPLETIONS, read_request
from common.generation.options import GenerateOptions
from common.inputs.checks import check_input, check_input_url
from common.jobs.job import Job
from common.jobs.message import build_message

EMBEDDINGS, JOBS = "/v1/embeddings", "/v1/jobs"
ENDPOINTS = (EMBEDDINGS, COMPLETIONS, CHAT, JOBS)
LOWEST_PRIORITY = 9
MOST_ERRORS = 100
"""Errors of a file that are told; who has more wrote the file by a faulty program."""
_MOST_ID_CHARACTERS = 512
_JOB_FIELDS = frozenset({"model", "input", "input_url", "params"})
_NOT_PER_LINE = {
    "priority": "a batch runs in the lowest band; leave it out",
    "cache": "results of a batch are neither kept nor looked up; leave it out",
    "webhook": "a batch has one event, batch.completed; leave it out",
    "deadline": "the batch's completion_window is its deadline; leave it out",
    "start_within": "the batch's completion_window is its deadline; leave it out",
    "labels": "put them into the batch's metadata",
}


class BadRequest(InvalidInput):
    """The body of a line is no request for its endpoint."""

    code = "invalid_request"


@dataclass(frozen=True, slots=True)
class LineError:
    """Why a line makes the file no batch."""

    code: str
    line: int
    """From 1."""
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class LineLimits:
    """What a line, and its jobs, may be; bytes."""

    inline_input_bytes: int
    params_bytes: int
    message_bytes: int
    inputs: int
    chat_max_tokens: int = 1024


@dataclass(slots=True)
class Request:
    """A line with the jobs that it asks for; none where it was refused."""

    number: int
    """From 0."""
    custom_id: str
    end: int
    """The byte of the input after it."""
    jobs: list[Job] = field(default_factory=list)
    error: FleetError | None = None
    model: str = ""
    dimensions: int | None = None
    base64: bool = False
    one: bool = True
    """Whether its input is one, and not a list."""
    listed: str = "input"
    """What errors call such a list."""


class LineCheck:
    """Checks the lines of one file in order, and remembers their ids."""

    def __init__(self, endpoint: str, max_lines: int, max_line_bytes: int) -> None:
        self._endpoint = endpoint
        self._max_lines = max_lines
        self._max_line_bytes = max_line_bytes
        self._seen: set[bytes] = set()
        self.lines = 0
        """All of them, blank ones as well."""
        self.requests = 0
        self.errors: list[LineError] = []

    @property
    def hopeless(self) -> bool:
        """Whether to read on tells nothing new."""
        return len(self.errors) >= MOST_ERRORS or self.requests > self._max_lines

    def take(self, line: bytes) -> None:
        """Check the next line."""
        self.lines += 1
        if not line.strip():
            return
        self.requests += 1
        if self.requests > self._max_lines:
            text = f"the file has more than {self._max_lines} requests; split it"
            self._refuse("too_many_requests", text)
            return
        if len(line) > self._max_line_bytes:
            self._refuse("line_too_long", f"the line is longer than {self._max_line_bytes} bytes")
            return
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            text = f"the line is not valid JSON ({exc}); each line is one JSON object"
            self._refuse("invalid_json_line", text)
            return
        problem = self._problem(document)
        if problem is not None:
            code, text, param = problem
            self._refuse(code, text, param)

    def finish(self) -> None:
        """Note what is wrong with the file as a whole."""
        if not self.requests and not self.errors:
            self.errors.append(LineError("empty_file", 1, "the file has no requests"))

    def too_long(self) -> None:
        """Note a line that is too long to be read to its end."""
        self.lines += 1
        self._refuse("line_too_long", f"the line is longer than {self._max_line_bytes} bytes")

    def _refuse(self, code: str, message: str, param: str | None = None) -> None:
        if len(self.errors) < MOST_ERRORS:
            self.errors.append(LineError(code, self.lines, message, param))

    def _problem(self, document: Any) -> tuple[str, str, str | None] | None:
        if not isinstance(document, dict):
            return "invalid_request_line", "the line is not a JSON object", None
        custom_id = document.get("custom_id")
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _MOST_ID_CHARACTERS:
            text = f"`custom_id`: send a text of 1 to {_MOST_ID_CHARACTERS} characters"
            return "missing_custom_id", text, "custom_id"
        if document.get("method") != "POST":
            return "invalid_method", '`method`: send "POST"', "method"
        if document.get("url") != self._endpoint:
            text = f"`url`: the batch's endpoint is {self._endpoint}; send that"
            return "mismatched_endpoint", text, "url"
        if not isinstance(document.get("body"), dict):
            return "missing_body", "`body`: send an object, as for the endpoint itself", "body"
        mark = hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        if mark in self._seen:
            text = f"`custom_id`: {custom_id[:80]!r} is on a line before; each must be its own"
            return "duplicate_custom_id", text, "custom_id"
        self._seen.add(mark)
        return None


@dataclass(frozen=True, slots=True)
class LineReader:
    """Turns the lines of one batch into requests with jobs."""

    batch: str
    tenant: str
    endpoint: str
    expires_ms: int
    catalog: Catalog
    limits: LineLimits

    def read(self, line: bytes, number: int, end: int) -> Request:
        """The request of a line that was checked before."""
        document = orjson.loads(line)
        request = Request(number, document["custom_id"], end)
        try:
            parse = _PARSERS[self.endpoint]
            parse(self, document["body"], request, len(line))
        except FleetError as exc:
            request.error, request.jobs = exc, []
        return request

    def _job(self, body: Mapping[str, Any], request: Request, size: int) -> None:
        _check_fields(body)
        request.model = model = _text(body, "model")
        spec = self.catalog[model]
        params = body.get("params", {})
        if not isinstance(params, dict):
            raise BadRequest("`params`: send an object")
        options = options_of(spec, params)
        if options is not None:
            _check_unread(options)
        if ("input" in body) == ("input_url" in body):
            raise BadRequest("send either `input`, or `input_url` to have it fetched")
        if "input_url" in body:
            url = check_input_url(_text(body, "input_url"))
            job = self._new(request, 0, model, size, params=params, input=None, input_url=url)
        else:
            if options is not None:
                check_prompt(body["input"])
            value, blob = check_input(
                spec.input, body["input"], self.limits.inline_input_bytes, size
            )
            job = self._new(request, 0, model, size, params=params, input=value, blob=blob)
        request.jobs = [job]

    def _generation(self, body: Mapping[str, Any], request: Request, size: int) -> None:
        asked = read_request(self.endpoint, body, self.limits.chat_max_tokens)
        _check_unread(asked.options)
        request.model = model = asked.model
        spec = self.catalog[model]
        if spec.task != TASK:
            raise BadRequest(f"`model`: {model!r} generates no text")
        count = len(asked.inputs)
        if count > self.limits.inputs:
            raise BadRequest(f"`prompt`: send 1 to {self.limits.inputs} prompts a line")
        request.one, request.listed = count == 1, "prompt"
        for index, prompt in enumerate(asked.inputs):
            value, blob = check_input(spec.input, prompt, self.limits.inline_input_bytes, size)
            fields = {"params": asked.params, "input": value, "blob": blob}
            request.jobs.append(self._new(request, index, model, size // count, **fields))

    def _embeddings(self, body: Mapping[str, Any], request: Request, size: int) -> None:
        request.model = model = _text(body, "model")
        spec = self.catalog[model]
        if spec.task != "embed":
            raise BadRequest(f"`model`: {model!r} makes no embeddings")
        request.dimensions = _dimensions(body.get("dimensions"), spec.dimensions)
        encoding = body.get("encoding_format", "float")
        if encoding not in ("float", "base64"):
            raise BadRequest("`encoding_format`: send float or base64")
        request.base64 = encoding == "base64"
        texts = body.get("input")
        request.one = not isinstance(texts, list)
        inputs = texts if isinstance(texts, list) else [texts]
        if not 0 < len(inputs) <= self.limits.inputs:
            raise BadRequest(f"`input`: send 1 to {self.limits.inputs} texts a line")
        jobs = []
        for index, text in enumerate(inputs):
            value, blob = check_input(spec.input, text, self.limits.inline_input_bytes, size)
            share = size // len(inputs)
            jobs.append(self._new(request, index, model, share, input=value, blob=blob))
        request.jobs = jobs

    def _new(self, request: Request, index: int, model: str, size: int, **fields: Any) -> Job:
        job = Job(
            model=model,
            id=line_job_id(self.batch, request.number, index),
            priority=LOWEST_PRIORITY,
            deadline_ms=self.expires_ms,
            tenant=self.tenant,
            sent_bytes=size,
            **fields,
        )
        if job.params and len(orjson.dumps(job.params)) > self.limits.params_bytes:
            raise MessageTooLarge(f"`params`: more than {self.limits.params_bytes} bytes as JSON")
        most = self.limits.message_bytes
        if size * 7 > most and len(build_message(job)) > most:
            raise MessageTooLarge(f"the line makes a message of more than {most} bytes")
        return job


_PARSERS = {
    EMBEDDINGS: LineReader._embeddings,
    COMPLETIONS: LineReader._generation,
    CHAT: LineReader._generation,
    JOBS: LineReader._job,
}


def _check_unread(options: GenerateOptions) -> None:
    """Nobody reads a line's answer as it comes."""
    for name in ("stream", "on_disconnect"):
        if getattr(options, name) not in (False, None, "continue"):
            raise BadRequest(f"`{name}`: a batch has no reader; leave it out")


def _check_fields(body: Mapping[str, Any]) -> None:
    for name in body:
        if name in _NOT_PER_LINE:
            raise BadRequest(f"`{name}`: {_NOT_PER_LINE[name]}")
        if name not in _JOB_FIELDS:
            raise BadRequest(
                f"`{name}`: no such field; a line has {', '.join(sorted(_JOB_FIELDS))}"
            )


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"`{name}`: send a text")
    return value


def _dimensions(asked: Any, allowed: Sequence[int]) -> int | None:
    if asked is None or asked in allowed:
        return None if asked is None else int(asked)
    lengths = " or ".join(map(str, allowed)) or "none"
    raise BadRequest(f"`dimensions`: this model takes {lengths}, not {asked!r}")


def errors_json(errors: Sequence[LineError]) -> str:
    """The errors as a batch's record has them."""
    shown = [
        {"code": one.code, "line": one.line, "message": one.message, "param": one.param}
        for one in errors
    ]
    return json.dumps(shown)
