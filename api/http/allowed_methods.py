"""The methods of a path, for the `Allow` header of a 405.

Each route has only its own methods, and where an id could also be the name of an action, the
first route that matches may be the wrong one; the OpenAPI document has all of them.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from fastapi import FastAPI, Request

from api.http.request_context import path_of

_PARAMETER = re.compile(r"\\\{\w+\\\}")
_METHODS = frozenset(("get", "post", "put", "patch", "delete"))


def methods_of(app: FastAPI, request: Request) -> str:
    """The methods of the request's path, comma-separated; empty where it is not documented."""
    path = path_of(request.scope)
    return next((allow for pattern, allow in _table(app) if pattern.fullmatch(path)), "")


@cache
def _table(app: FastAPI) -> list[tuple[re.Pattern[str], str]]:
    """Patterns of the paths, those with fewest parameters first, and the methods of each."""
    paths = app.openapi()["paths"]
    return [
        (
            re.compile(_PARAMETER.sub("[^/]+", re.escape(path))),
            ", ".join(sorted(_methods(paths[path]))),
        )
        for path in sorted(paths, key=lambda path: path.count("{"))
    ]


def _methods(item: dict[str, Any]) -> set[str]:
    """Of a path of the document; what answers GET answers HEAD."""
    named = {method.upper() for method in item if method in _METHODS}
    return named | {"HEAD"} if "GET" in named else named
