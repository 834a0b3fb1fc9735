"""Runs several inputs as one request: publishes them together, waits for all, answers in order.

The task-shaped routes and the OpenAI-shaped one share this. A refused input is represented by
its error at its position; the others are not affected.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Request
from redis.exceptions import RedisError

from api.cache.directives import ANYTHING, CacheDirectives
from api.cache.result_cache import Hit
from api.http.bodies import aside
from api.http.departures import ClientLeft, unless_client_leaves
from api.http.request_context import waiting_by_choice
from api.http.request_errors import InvalidRequest, ModelRequired, TooManyInputs, WrongTask
from api.jobs.request import MISSING, job_request
from api.services import Services
from api.tenants.auth import Principal
from common.catalog import Task
from common.errors import FleetError, InvalidInput, Refused
from common.jobs.job import Job
from common.jobs.record import JobRecord, JobState

_INPUT_BYTES = 1024
"""How many bytes take as long to check as an input takes besides its bytes."""
JOBS_PER_CALL = 500
"""As for bulk: bounds the time for which one script call blocks Redis."""

_CANCELS_AT_ONCE = 16

Outcome = JobRecord | FleetError


@dataclass(frozen=True, slots=True)
class FetchedFrom:
    """An input that a worker fetches; whether it is a URL is not checked yet."""

    url: Any


@dataclass(frozen=True, slots=True)
class TaskCall:
    """One request for a task: its inputs, and the fields that all its jobs share."""

    model: str
    fields: Mapping[str, Any]
    inputs: Sequence[Any]
    """Values as in `JobRequest.input`, FetchedFrom, or bytes of a file."""
    principal: Principal
    sent_bytes: int = 0
    """Size of the JSON that contained the inputs."""
    strict: bool = True
    """As for `job_request`."""
    directives: CacheDirectives = ANYTHING
    """Whether cached results may be used."""


def model_for(services: Services, task: Task, name: str | None) -> str:
    """The name to use, the task's default when none is given.

    Raises UnknownModel, or WrongTask or ModelRequired, which name the models of the task.
    """
    catalog = services.catalog
    named = catalog.default_for(task) if name is None else name
    if named is not None and catalog[named].task == task:
        return named
    choices = ", ".join(sorted(catalog.for_task(task))) or "none"
    if name is not None:
        detail = f"{name!r} is not a model for {task}; this fleet has: {choices}"
        raise WrongTask(detail)
    raise ModelRequired(f"say which `model`; for {task} this fleet has: {choices}")


async def prepare(services: Services, call: TaskCall) -> list[Job | FleetError]:
    """Check every input; raises InvalidRequest for a field that is wrong for all of them."""
    most = services.settings.max_inputs
    if not call.inputs:
        raise InvalidRequest("`input`: send at least one")
    if len(call.inputs) > most:
        detail = f"`input`: at most {most} at a time, not {len(call.inputs)}; send the rest next"
        raise TooManyInputs(detail)
    shared = job_request({**call.fields, "model": call.model, "input": None}, strict=call.strict)

    params_bytes = len(orjson.dumps(shared.params)) if shared.params else 0
    own_bytes = call.sent_bytes // len(call.inputs) + params_bytes

    def check(value: Any) -> Job | FleetError:
        try:
            if isinstance(value, bytes):
                return services.submission.prepare_file(
                    shared, value, call.principal, call.directives
                )
            one = shared.model_copy(update=_source(value))
            return services.submission.prepare(
                one, call.principal, call.sent_bytes, call.directives, own_bytes
            )
        except FleetError as exc:
            return exc

    size = call.sent_bytes + sum(len(one) for one in call.inputs if isinstance(one, bytes))
    size += _INPUT_BYTES * len(call.inputs)
    return await aside(size, lambda: [check(value) for value in call.inputs])


def _source(value: Any) -> dict[str, Any]:
    if not isinstance(value, FetchedFrom):
        return {"input": value}
    if not isinstance(value.url, str):
        raise InvalidInput("`input_url`: send a URL, or a list of them")
    return {"input": MISSING, "input_url": value.url}


async def run_for(
    request: Request,
    services: Services,
    prepared: Sequence[Job | FleetError],
    seconds: float,
    *,
    cancels: bool = True,
) -> list[Outcome]:
    """As `run`, while its client is there: what is not done when it leaves is canceled.

    The client has not heard any id yet, so nobody could fetch the results, unless they are found
    in the list of jobs (`cancels`). Identical jobs of others go on: where one of these leads them,
    another takes over.
    """
    if not seconds:
        return await run(services, prepared, seconds)
    try:
        return await unless_client_leaves(request, run(services, prepared, seconds))
    except (ClientLeft, asyncio.CancelledError):
        if cancels:
            await cancel_jobs(services, [one.id for one in prepared if isinstance(one, Job)])
        raise


async def cancel_jobs(services: Services, ids: Sequence[str]) -> None:
    """Cancel those of them that are not settled."""
    for first in range(0, len(ids), _CANCELS_AT_ONCE):
        part = ids[first : first + _CANCELS_AT_ONCE]
        await asyncio.gather(*map(services.store.cancel, part))


async def run(
    services: Services, prepared: Sequence[Job | FleetError], seconds: float
) -> list[Outcome]:
    """Publish, wait at most `seconds`; returns per input its job's state then, or its error.

    Raises the first refusal when no input was accepted.
    """
    jobs = [one for one in prepared if isinstance(one, Job)]
    records: dict[str, Outcome] = {}
    if not jobs:
        raise next(one for one in prepared if isinstance(one, FleetError))
    # A task of its own: a script that was sent is carried out, whoever stops waiting for it.
    publishing = asyncio.create_task(_publish(services, jobs, records))
    try:
        if not seconds:
            await publishing
        else:
            await _wait_for(services, jobs, records, seconds, asyncio.shield(publishing))
    finally:
        if not publishing.done():
            await asyncio.wait({publishing})
            publishing.exception()  # heard of it; whoever is cancelled has no use for it
    outcomes = [records[one.id] if isinstance(one, Job) else one for one in prepared]
    if not any(isinstance(one, JobRecord) for one in outcomes):
        raise next(one for one in outcomes if isinstance(one, FleetError))
    return outcomes


async def _wait_for(
    services: Services,
    jobs: Sequence[Job],
    records: dict[str, Outcome],
    seconds: float,
    publishing: Awaitable[list[str]],
) -> None:
    ids = [job.id for job in jobs]
    with waiting_by_choice(jobs[0].tenant):
        async with aclosing(services.waiter.watch(ids, seconds, begin=publishing)) as watch:
            async for settled in watch:
                records.update((record.id, record) for record in settled)
    await _look_again(services, records)


async def _publish(
    services: Services, jobs: Sequence[Job], records: dict[str, Outcome]
) -> list[str]:
    """Publish all, note what became of each; returns the ids for which there is no waiting."""
    now_ms = services.sampler.clock.now_ms()
    for first in range(0, len(jobs), JOBS_PER_CALL):
        part = jobs[first : first + JOBS_PER_CALL]
        for job, reply in zip(part, await services.submission.publish_all(part), strict=True):
            if isinstance(reply, Refused):
                records[job.id] = reply
            elif isinstance(reply, Hit):
                records[job.id] = reply.record()
            else:
                records[job.id] = JobRecord(job.id, JobState.QUEUED, job.model, created_ms=now_ms)
    return [job_id for job_id, one in records.items() if _is_over(one)]


def _is_over(outcome: Outcome) -> bool:
    return isinstance(outcome, FleetError) or outcome.state.terminal


async def _look_again(services: Services, records: dict[str, Outcome]) -> None:
    """Read the jobs not settled in time; they stay as accepted if Redis is unavailable."""
    left = [job_id for job_id, record in records.items() if not _is_over(record)]
    with contextlib.suppress(RedisError):
        for record in await services.store.get_many(left) if left else ():
            if record is not None:
                records[record.id] = record
