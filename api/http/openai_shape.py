"""OpenAI's form of an error: `{"error": {"message", "type", "param", "code"}}`.

Its clients tell errors by the status and read these four. Where a route is OpenAI's and ours at
once, or where there is no route at all, problem documents have them as a member, which RFC 9457
allows: a client of either kind finds what it looks for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {"unknown_model": "model_not_found", "prompt_too_long": "context_length_exceeded"}
_PARAMS = {"unknown_model": "model", "wrong_task": "model", "model_required": "model"}
_SHARED = re.compile(
    r"/v1/(embeddings|(chat/)?completions|models(/[^/]+)?|(files|batches)(/.*)?)/?"
)


def openai_error(status: int, code: str, detail: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The error of a problem."""
    usual = "server_error" if status >= 500 else "invalid_request_error"
    return {
        "message": detail,
        "type": _TYPES.get(status, usual),
        "param": extra.get("param") or _PARAMS.get(code),
        "code": _CODES.get(code, code),
    }


def is_openais(path: str) -> bool:
    """Whether OpenAI's API has this path too."""
    return _SHARED.fullmatch(path) is not None
