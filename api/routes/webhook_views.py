"""The bodies of `/v1/webhooks`, as pydantic reads and writes them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

from api.http.timestamps import moment
from common.webhooks.deliveries import Delivery
from common.webhooks.endpoints import Endpoint
from common.webhooks.events import EVENTS
from common.webhooks.signing import public_key_of, scheme_of

MOST_IDS = 1_000
State = Literal["pending", "delivered", "dead"]
_URL = Field(max_length=4096, examples=["https://example.com/hooks"])
_EVENTS = Field(
    None,
    max_length=50,
    description=f"Of {', '.join(EVENTS)}. null is all of them; none is only those of jobs that "
    "name the endpoint.",
)


class NewEndpoint(BaseModel):
    """An endpoint to register."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, _URL]
    events: list[str] | None = _EVENTS
    description: str = Field("", max_length=500)
    signature: Literal["v1", "v1a"] = Field(
        "v1", description="v1 is HMAC-SHA256 with a shared secret, v1a Ed25519 with a public key."
    )
    secret: str | None = Field(
        None, max_length=200, description="whsec_... or whsk_...; left out, one is made."
    )
    local: bool = Field(
        False,
        description="A listener for development at a loopback address: only where the fleet itself "
        "listens on loopback.",
    )


class EndpointChange(BaseModel):
    """What to change of an endpoint; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = Field(None, max_length=4096)
    events: list[str] | None = _EVENTS
    description: str | None = Field(None, max_length=500)
    enabled: bool | None = Field(None, description="false sends nothing to it until it is true.")


class SecretChange(BaseModel):
    """A secret of one's own, or none to have one made."""

    model_config = ConfigDict(extra="forbid")

    secret: str | None = Field(None, max_length=200)


class EndpointView(BaseModel):
    """An endpoint. Its secret is shown once, where it is made."""

    id: str
    url: str
    events: list[str] | None
    description: str
    created_at: datetime | None
    enabled: bool
    disabled_reason: str | None
    signature: str
    secrets: int = Field(
        description="How many sign now: two while one is rotated out; none where they were "
        "encrypted with another key than the operator's, so rotate."
    )
    public_keys: list[str] = Field(description="What `v1a` is verified with.")

    @classmethod
    def of(cls, endpoint: Endpoint, secrets: list[str]) -> EndpointView:
        """The view of an endpoint with these secrets."""
        keys = [key for one in secrets if (key := public_key_of(one))]
        return cls(
            id=endpoint.id,
            url=endpoint.url,
            events=None if endpoint.events is None else list(endpoint.events),
            description=endpoint.description,
            created_at=moment(endpoint.created_ms),
            enabled=not endpoint.disabled,
            disabled_reason=endpoint.disabled or None,
            signature=scheme_of(secrets[0]) if secrets else "v1",
            secrets=len(secrets),
            public_keys=keys,
        )


class CreatedEndpoint(EndpointView):
    """A new endpoint, with its secret."""

    secret: str = Field(description="Shown this once; rotate it where it is lost.")


class DeletedEndpoint(BaseModel):
    """The endpoint that was removed."""

    deleted: str


class EndpointList(BaseModel):
    """A tenant's endpoints."""

    webhooks: list[EndpointView]


class SecretView(BaseModel):
    """A new secret."""

    secret: str = Field(description="Shown this once.")
    public_key: str | None = Field(None, description="What `v1a` is verified with.")


class AttemptView(BaseModel):
    """One try at a delivery."""

    at: datetime | None
    status: int | None = Field(description="Of the answer; null where there was none.")
    ms: float
    answer: str = Field(
        description="Its first characters; not shown of networks that the operator opened."
    )
    error: str | None


class DeliveryView(BaseModel):
    """One event on its way to one receiver."""

    id: str = Field(description="Sent as `webhook-id`.")
    type: str
    subject: str = Field(description="The job or batch.")
    endpoint: str | None
    url: str | None = Field(description="The URL that the job named, without its query.")
    state: State
    created_at: datetime | None
    attempts: list[AttemptView]

    @classmethod
    def of(cls, one: Delivery) -> DeliveryView:
        """The view of a delivery."""
        return cls(
            id=one.id,
            type=one.type,
            subject=one.subject,
            endpoint=one.endpoint or None,
            url=one.url.partition("?")[0] or None,
            state=one.state,
            created_at=moment(one.created_ms),
            attempts=[
                AttemptView(
                    at=moment(each.at_ms),
                    status=each.status,
                    ms=each.ms,
                    answer=each.answer,
                    error=each.error or None,
                )
                for each in one.log
            ],
        )


class DeliveryList(BaseModel):
    """Deliveries, newest first."""

    deliveries: list[DeliveryView]


class DeliverySelection(BaseModel):
    """Which deliveries: these, or those that match."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[str] | None, FailFast()] = Field(None, max_length=MOST_IDS)
    state: State | None = None
    endpoint: str | None = None
    type: str | None = None
    subject: str | None = None


class DeliveryCount(BaseModel):
    """How many deliveries a call concerned."""

    deliveries: int
