"""The served OpenAPI document: FastAPI's document of the routes, completed.

Some responses come from in front of the routes or are the same for all of them
(api/http/middleware.py, api/server/connection.py, api/http/strict_route.py), so they
are declared here once instead of in each.
FastAPI also declares a 422 of its own shape, which is never sent. The links declare which
request follows from which response; tools that walk the API follow them.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from api.http.problems import responses

_FOR_ALL = responses(
    s400="Not a request that can be understood.",
    s421="Not a Host that this API answers to.",
    s503="Too much is under way, or the queue cannot be reached; see `Retry-After`.",
)
_IN_PATH = responses(s404="There is nothing of this name.")
_WITH_PARAMETERS = responses(s422="A parameter or field is missing or wrong.")
_WITH_BODY = responses(
    s408="The body came too slowly.",
    s413="The body is too large.",
    s415="Not a content type or encoding that is taken.",
    s422="A field is missing or wrong.",
)
_SAME_JOB = {"job_id": "$request.path.job_id"}
_LINKS: dict[str, dict[str, dict[str, str]]] = {
    "get_job": {"cancel_job": _SAME_JOB, "get_job_result": _SAME_JOB},
    "cancel_job": {"get_job": _SAME_JOB, "retry_job": _SAME_JOB},
    "retry_job": {"get_job": _SAME_JOB},
}
"""The links of responses whose routes do not declare them."""


def operation_id(route: APIRoute) -> str:
    """An operation's id is the name of its function."""
    return route.name


def install(app: FastAPI) -> None:
    """Have the application serve the completed document."""
    derive = app.openapi

    def whole() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(derive())
        return derive()

    app.openapi = whole  # type: ignore[method-assign]  # FastAPI's documented way


def _complete(document: dict[str, Any]) -> None:
    operations = [
        (path, operation)
        for path, item in document["paths"].items()
        for operation in item.values()
        if "responses" in operation
    ]
    known = {operation["operationId"] for _, operation in operations}
    for path, operation in operations:
        _add_answers(path, operation)
        _add_links(operation, known)


def _add_answers(path: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    if "HTTPValidationError" in str(answers.get("422", "")):
        answers["422"] = _WITH_PARAMETERS["422"]
    shared = dict(_FOR_ALL)
    if "{" in path:
        shared |= _IN_PATH
    if "requestBody" in operation:
        shared |= _WITH_BODY
    if operation.get("parameters"):
        shared |= _WITH_PARAMETERS
    for answer in answers.values():
        # FastAPI declares a string, which would apply to each of its events.
        answer.get("content", {}).get("text/event-stream", {}).pop("schema", None)
    operation["responses"] = dict(sorted({**shared, **answers}.items()))


def _add_links(operation: dict[str, Any], known: set[str]) -> None:
    links = {
        target: {"operationId": target, "parameters": parameters}
        for target, parameters in _LINKS.get(operation["operationId"], {}).items()
        if target in known
    }
    for status, answer in operation["responses"].items():
        if links and status.startswith("2"):
            answer.setdefault("links", links)
