"""The Python client: `Client` for ordinary code, `AsyncClient` for event loops.

    from api.client import Client

    with Client("http://127.0.0.1:8000") as client:
        job = client.submit("minilm", "The quick brown fox.", wait=30)

Both send the same requests (`calls`), retry by the same rules (`retries`) and
map by the same plan (`plan`); only the waiting differs. See docs/client.md.
"""

from __future__ import annotations

from api.client.asynchronous import AsyncClient
from api.client.blocking import Client
from api.client.errors import ApiError, ClientError, JobFailed, StillRunning
from api.client.retries import RetryPolicy
from api.client.types import TERMINAL, Event, Failure, Job, Links, State

__all__ = (
    "TERMINAL",
    "ApiError",
    "AsyncClient",
    "Client",
    "ClientError",
    "Event",
    "Failure",
    "Job",
    "JobFailed",
    "Links",
    "RetryPolicy",
    "State",
    "StillRunning",
)
