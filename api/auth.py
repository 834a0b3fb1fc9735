"""Who asks: the principal behind a request, and what it may do.

While no API key is configured everybody who reaches us is `LOCAL`: of no
tenant and allowed everything. Such a process listens on loopback only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

__all__ = ("LOCAL", "SCOPES", "Principal", "PrincipalDep", "principal_of")

SCOPES = frozenset({"submit", "read", "metrics", "admin"})
"""submit jobs; read one's own and the models; scrape /metrics; operate the fleet."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a request is from."""

    tenant: str
    """Whose jobs these are; empty for LOCAL, and for jobs that a Celery client sent."""
    scopes: frozenset[str]
    key_id: str = ""
    """Public part of the API key; empty for LOCAL."""

    def allows(self, scope: str) -> bool:
        """Whether this scope was granted; admin includes every other."""
        return scope in self.scopes or "admin" in self.scopes

    def owns(self, tenant: str) -> bool:
        """Whether jobs of this tenant exist for it at all; to others they are unknown."""
        return tenant == self.tenant or "admin" in self.scopes


LOCAL = Principal("", SCOPES)


async def principal_of(_request: Request) -> Principal:
    """The principal of a request, in routes and in front of them (api/hot.py)."""
    return LOCAL


PrincipalDep = Annotated[Principal, Depends(principal_of)]
