"""FastAPI dependencies for the principal; the OpenAPI document takes its schemes from here."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer, SecurityScopes

from api.tenants.auth import Authenticator, Principal, require

_BEARER = HTTPBearer(auto_error=False, scheme_name="bearer", description="An API key.")


_HEADER = APIKeyHeader(
    name="X-API-Key", auto_error=False, scheme_name="header", description="The same."
)


async def _authorized(
    request: Request,
    needed: SecurityScopes,
    _bearer: Annotated[object, Security(_BEARER)],
    _header: Annotated[object, Security(_HEADER)],
) -> Principal:
    authenticator: Authenticator = request.app.state.services.authenticator
    principal = await authenticator.identify(request.scope["headers"])
    for scope in needed.scopes:
        require(principal, scope)
    return principal


PrincipalDep = Annotated[Principal, Security(_authorized)]
"""Any principal. Routes require a scope: use one of the following."""


SubmitDep = Annotated[Principal, Security(_authorized, scopes=["submit"])]


ReadDep = Annotated[Principal, Security(_authorized, scopes=["read"])]


MetricsDep = Annotated[Principal, Security(_authorized, scopes=["metrics"])]


AdminDep = Annotated[Principal, Security(_authorized, scopes=["admin"])]
