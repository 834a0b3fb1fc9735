"""Checks jobs that generate text, before they are queued; the worker checks what needs tokens."""

from __future__ import annotations

from api.jobs.request import MISSING, JobRequest
from common.catalog import ModelSpec
from common.generation.inputs import check_prompt, options_of
from common.generation.options import InvalidOption

_NO_READER = (
    "whoever submits a job does not read it; say so where it is read, "
    "/v1/jobs/{id}/events?on_disconnect=cancel, or generate with a stream"
)


def check_generation(spec: ModelSpec, request: JobRequest, *, is_file: bool = False) -> None:
    """Raise InvalidOption or InvalidInput where the model generates and this is no job for it."""
    options = options_of(spec, request.params)
    if options is None:
        return
    if options.on_disconnect == "cancel":
        raise InvalidOption("on_disconnect", _NO_READER)
    if not is_file and request.input is not MISSING:
        check_prompt(request.input)
