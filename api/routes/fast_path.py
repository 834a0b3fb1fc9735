"""The fast path: `POST /v1/jobs` past the layers of FastAPI that it does not use.

Routing, dependency solving and five middlewares cost a request more than the processing of its
job. So this one is handled in front of them; its errors become the same documents. The FastAPI
route stays registered, for the OpenAPI document, calls the same function, and handles requests
that are not recognised here, such as a path behind an unusual mount.
"""

from __future__ import annotations

from fastapi import FastAPI, Response
from starlette.types import Receive, Scope, Send

from api.http import bodies
from api.http.idempotency_key import REPLAYED
from api.http.json_response import JsonResponse
from api.http.preferences import NONE, VARY
from api.http.problems import response_for
from api.jobs.links import job_path
from api.jobs.request_body import job_of
from api.jobs.submission import Taken
from api.jobs.views import hit_json, queued_json
from api.routes.job_lookup import show_job, unknown_job
from api.services import Services
from api.tenants.auth import require
from common.jobs.record import JobRecord

PATH = "/v1/jobs"


class _Route:
    """Replaces the route that FastAPI would have found, for logging its path."""

    path = PATH


_ROUTE = _Route()


class FastPath:
    """The application, with a fast path for single jobs."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.takes(scope):
            response = await self.answer(scope, receive)
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def takes(self, scope: Scope) -> bool:
        """Whether this request is handled by the fast path."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return False
        path, root = scope["path"], scope.get("root_path")
        return bool(path == (root + PATH if root else PATH))

    async def answer(self, scope: Scope, receive: Receive) -> Response:
        """The response to a submit; an unexpected error is logged and answered as well."""
        scope["route"] = _ROUTE
        try:
            return await take_job(scope, receive, self._app.state.services)
        except Exception as exc:  # noqa: BLE001 - nothing behind us would make a document of it
            return response_for(exc)


async def take_job(scope: Scope, receive: Receive, services: Services) -> Response:
    """Handle `POST /v1/jobs`, here and as FastAPI's route."""
    principal = await services.authenticator.identify(scope["headers"])
    require(principal, "submit")
    body = await bodies.receive(scope, receive, services.settings.max_body_bytes)
    taken = await services.submission.take(await job_of(body), body, principal)
    if taken.preferences.wait_seconds:
        await services.authenticator.recheck(principal)
    headers = job_headers(taken.job_id)
    plain = taken.preferences is NONE and not taken.replayed
    if plain and taken.queued_now and taken.record is not None:
        response = _queued(taken.record, headers, services)
    else:
        response = await _answer(taken, headers, services)
    if principal.tenant:
        response.headers.update(services.submission.rate_headers(principal))
    return response


def _queued(record: JobRecord, headers: dict[str, str], services: Services) -> Response:
    notice = services.admission.notice(record.lane)
    return JsonResponse(queued_json(record, headers["Location"], notice), 202, headers)


async def _answer(taken: Taken, headers: dict[str, str], services: Services) -> Response:
    preferences = taken.preferences
    if preferences is not NONE and (applied := preferences.applied(settled=taken.settled)):
        headers["Preference-Applied"] = applied
    if taken.replayed:
        headers[REPLAYED] = "true"
    if taken.hit is not None:
        headers["Age"] = str(taken.hit.age_seconds)
        return JsonResponse(hit_json(taken.hit), 200, headers)
    if taken.record is None:
        raise unknown_job(taken.job_id)
    if taken.queued_now:
        return _queued(taken.record, headers, services)
    return await show_job(services, taken.record, 200 if taken.settled else 202, headers)


def job_headers(job_id: str) -> dict[str, str]:
    """The Location of the job, and the Vary of the response."""
    return {"Location": job_path(job_id), "Vary": VARY}
