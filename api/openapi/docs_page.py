"""`/docs`: Swagger UI under a content security policy.

Its script and style come from the CDN that FastAPI names; the one inline script,
which starts it, is allowed by its hash, so the policy needs no `unsafe-inline` for
scripts. Nothing else may be loaded, framed or posted to.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse

from api.http.request_context import current_root

_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_CDN = "https://cdn.jsdelivr.net"
_ICON = "https://fastapi.tiangolo.com"


def install(app: FastAPI) -> None:
    """Add the page, and send visitors of `/` to it."""

    @app.get("/docs", include_in_schema=False)
    async def swagger() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url=f"{current_root()}{app.openapi_url}", title=app.title
        )
        policy = policy_for(bytes(page.body).decode())
        page.headers["Content-Security-Policy"] = policy
        page.headers["Referrer-Policy"] = "no-referrer"
        return page

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse(f"{current_root()}/docs")


def policy_for(html: str) -> str:
    """The policy under which this page works, and no more."""
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in _INLINE.findall(html))
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_CDN} {hashes}",
            f"style-src {_CDN} 'unsafe-inline'",  # Swagger UI sets style attributes
            f"img-src 'self' data: {_ICON} {_CDN}",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _hash(script: str) -> str:
    return b64encode(sha256(script.encode()).digest()).decode()
