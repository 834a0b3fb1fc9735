"""What leaves the teller: an entry of a stream, and the output of a job."""

from __future__ import annotations

from common.generation.said import dump_entry
from worker.generation.generation import Generation
from worker.jobs.lease_calls import SaidJob
from worker.models.generator import Generated


def said_job(generation: Generation, stream_seconds: int) -> SaidJob:
    """The next entry of its stream, of all that was said and not yet written."""
    telling, execution = generation.telling, generation.execution
    telling.entry += 1
    ends = telling.is_complete
    ttl = min(stream_seconds, generation.lane.result_ttl) if ends else stream_seconds
    said = dump_entry(telling.deltas.values())
    return SaidJob(execution.tag, execution.job_id, telling.entry, ttl, said)


def generated(generation: Generation) -> Generated:
    """What the generator's `encode` gets."""
    execution = generation.execution
    if generation.cut == "deadline":
        execution.deadline = None  # its result comes after it, as was asked for
        execution.digest = ""  # the same request with more time has another text
    first = max(0.0, generation.first_at - execution.arrived) if generation.first_at else 0.0
    return Generated(generation.prompt, generation.telling.choices, first)
