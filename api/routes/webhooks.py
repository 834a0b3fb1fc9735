"""Registers endpoints of webhooks, and shows and replays what was sent to them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import ServicesDep
from api.http.problems import Problem, responses
from api.http.strict_route import StrictRoute
from api.routes.webhook_views import (
    CreatedEndpoint,
    DeletedEndpoint,
    DeliveryCount,
    DeliveryList,
    DeliverySelection,
    DeliveryView,
    EndpointChange,
    EndpointList,
    EndpointView,
    NewEndpoint,
    SecretChange,
    SecretView,
    State,
)
from api.services import Services
from api.tenants.auth import Principal
from api.tenants.dependencies import ReadDep, SubmitDep
from api.webhooks.registry import DeliveryFilter
from common.webhooks.endpoints import DEFAULT, Endpoint
from common.webhooks.signing import public_key_of

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=StrictRoute)

_GONE = responses(s404="No such endpoint.")


@router.post("", status_code=201, responses=responses(s422="The URL or the secret is refused."))
async def create_webhook(
    asked: NewEndpoint, services: ServicesDep, principal: SubmitDep
) -> CreatedEndpoint:
    """Register an endpoint; its secret is shown this once."""
    endpoint, secret = await services.webhooks.create(
        principal.tenant,
        asked.url,
        asked.events,
        asked.description,
        asked.signature,
        asked.secret,
        asked.local,
    )
    view = EndpointView.of(endpoint, [secret])
    return CreatedEndpoint(**view.model_dump(), secret=secret)


@router.get("")
async def list_webhooks(services: ServicesDep, principal: ReadDep) -> EndpointList:
    """The tenant's endpoints."""
    found = await services.webhooks.endpoints(principal.tenant)
    return EndpointList(webhooks=[_view(services, principal, one) for one in found])


@router.get("/deliveries")
async def list_deliveries(
    services: ServicesDep,
    principal: ReadDep,
    state: State | None = None,
    endpoint: str | None = None,
    type: str | None = None,
    subject: Annotated[str | None, Query(description="A job's or batch's id.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> DeliveryList:
    """What was sent and how it went, newest first; `state=dead` is the dead list."""
    wanted = DeliveryFilter(state, endpoint, type, subject)
    found = await services.webhooks.deliveries(principal.tenant, wanted, limit)
    return DeliveryList(deliveries=[DeliveryView.of(one) for one in found])


@router.post("/deliveries/replay")
async def replay_deliveries(
    selection: DeliverySelection, services: ServicesDep, principal: SubmitDep
) -> DeliveryCount:
    """Send deliveries again, by their ids or all that match; what is pending is sent anyway."""
    wanted = DeliveryFilter(selection.state, selection.endpoint, selection.type, selection.subject)
    count = await services.webhooks.replay(principal.tenant, selection.ids, wanted)
    return DeliveryCount(deliveries=count)


@router.get("/deliveries/{delivery_id}", responses=responses(s404="No such delivery."))
async def get_delivery(delivery_id: str, services: ServicesDep, principal: ReadDep) -> DeliveryView:
    """One delivery with its attempts."""
    found = await services.webhooks.delivery(principal.tenant, delivery_id)
    if found is None:
        raise Problem(404, "unknown_delivery", "no such delivery, or it is no longer kept")
    return DeliveryView.of(found)


@router.post("/secret")
async def rotate_default_secret(
    change: SecretChange, services: ServicesDep, principal: SubmitDep
) -> SecretView:
    """Make the secret, or a new one, that signs for URLs that jobs name; shown this once."""
    return await _rotate(services, principal, DEFAULT, change)


@router.get("/{endpoint_id}", responses=_GONE)
async def get_webhook(endpoint_id: str, services: ServicesDep, principal: ReadDep) -> EndpointView:
    """One endpoint."""
    return _view(services, principal, await _endpoint(services, principal, endpoint_id))


@router.patch("/{endpoint_id}", responses=_GONE)
async def update_webhook(
    endpoint_id: str, change: EndpointChange, services: ServicesDep, principal: SubmitDep
) -> EndpointView:
    """Change an endpoint, disable it or enable it again."""
    endpoint = await _endpoint(services, principal, endpoint_id)
    changed = await services.webhooks.update(
        principal.tenant,
        endpoint,
        url=change.url,
        events=change.events if "events" in change.model_fields_set else "unchanged",
        description=change.description,
        enabled=change.enabled,
    )
    if changed is None:
        raise _unknown()
    return _view(services, principal, changed)


@router.delete("/{endpoint_id}", responses=_GONE)
async def delete_webhook(
    endpoint_id: str, services: ServicesDep, principal: SubmitDep
) -> DeletedEndpoint:
    """Remove an endpoint; what is on its way to it is not sent."""
    await _endpoint(services, principal, endpoint_id)
    await services.webhooks.delete(principal.tenant, endpoint_id)
    return DeletedEndpoint(deleted=endpoint_id)


@router.post("/{endpoint_id}/rotate", responses=_GONE)
async def rotate_webhook(
    endpoint_id: str, change: SecretChange, services: ServicesDep, principal: SubmitDep
) -> SecretView:
    """Give it a new secret, shown this once; the last one signs beside it for a day."""
    await _endpoint(services, principal, endpoint_id)
    return await _rotate(services, principal, endpoint_id, change)


@router.post("/{endpoint_id}/ping", status_code=202, responses=_GONE)
async def ping_webhook(
    endpoint_id: str, services: ServicesDep, principal: SubmitDep
) -> DeliveryCount:
    """Send it `webhook.ping`, once; the log says how it went."""
    endpoint = await _endpoint(services, principal, endpoint_id)
    await services.webhooks.ping(principal.tenant, endpoint)
    return DeliveryCount(deliveries=1)


async def _rotate(
    services: Services, principal: Principal, endpoint_id: str, change: SecretChange
) -> SecretView:
    secret = await services.webhooks.rotate(principal.tenant, endpoint_id, change.secret)
    if secret is None:
        raise _unknown()
    return SecretView(secret=secret, public_key=public_key_of(secret))


async def _endpoint(services: Services, principal: Principal, endpoint_id: str) -> Endpoint:
    found = await services.webhooks.endpoint(principal.tenant, endpoint_id)
    if found is None:
        raise _unknown()
    return found


def _unknown() -> Problem:
    return Problem(404, "unknown_webhook", "no such endpoint; GET /v1/webhooks lists yours")


def _view(services: Services, principal: Principal, endpoint: Endpoint) -> EndpointView:
    return EndpointView.of(endpoint, services.webhooks.secrets(principal.tenant, endpoint))
