"""The Python client: `Client` for ordinary code, `AsyncClient` for event loops.

    from lanefleet import Client

    with Client("http://127.0.0.1:8000") as client:
        job = client.submit("minilm", "The quick brown fox.", wait=30)

Both send the same requests (`calls`), retry by the same rules (`retries`) and
map by the same plan (`plan`); only the waiting differs. See docs/client.md.

The imports inside are relative, as the client's own wheel has this folder as `lanefleet`.
"""

from __future__ import annotations

from .asynchronous import AsyncClient
from .blocking import Client
from .errors import ApiError, ClientError, JobFailed, StillRunning
from .manifest import Manifest, ManifestError
from .operations import Selected
from .plan import Input
from .retries import RetryPolicy
from .types import TERMINAL, Event, Failure, Generation, Job, JobPage, Links, State, Token, Usage
from .webhook_calls import WebhookInvalid, verify_webhook

__all__ = (
    "TERMINAL",
    "ApiError",
    "AsyncClient",
    "Client",
    "ClientError",
    "Event",
    "Failure",
    "Generation",
    "Input",
    "Job",
    "JobFailed",
    "JobPage",
    "Links",
    "Manifest",
    "ManifestError",
    "RetryPolicy",
    "Selected",
    "State",
    "StillRunning",
    "Token",
    "Usage",
    "WebhookInvalid",
    "verify_webhook",
)
