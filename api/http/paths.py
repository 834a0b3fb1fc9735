"""Paths as clients see them: below a root that a proxy adds, and without a slash at the end.

Nothing here names a host or a scheme: behind a proxy the API knows neither.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from starlette.routing import Match
from starlette.types import Scope

from api.http.request_context import path_of

_SAFE = "/:@!$&'()*+,;=-._~"


def under_root(scope: Scope, root: str) -> Scope:
    """The scope of a request below the root, whether the proxy has cut it off or not."""
    path, raw = scope["path"], scope.get("raw_path") or b""
    if scope.get("root_path") == root and path.startswith(f"{root}/"):
        return scope
    if path == root:
        path, raw = f"{path}/", raw + b"/"
    elif not path.startswith(f"{root}/"):
        path, raw = root + path, root.encode() + raw
    return {**scope, "path": path, "raw_path": raw, "root_path": root}


def without_slash(app: FastAPI, request: Request) -> RedirectResponse | None:
    """The way to the same path without its last slash, where there is a route of it."""
    path = path_of(request.scope)
    bare = path.rstrip("/")
    if bare == path or not bare:
        return None
    root = request.scope.get("root_path", "")
    meant: dict[str, Any] = {**request.scope, "path": root + bare}
    if all(route.matches(dict(meant))[0] is Match.NONE for route in app.router.routes):
        return None
    query = request.url.query
    where = quote(root + bare, safe=_SAFE) + (f"?{query}" if query else "")
    return RedirectResponse(where, 307)
