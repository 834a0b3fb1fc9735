"""`lanefleet webhooks`: endpoints, their secrets, and what was sent to them."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.cli.options import JsonFlag, UrlOption, all_named, named
from api.cli.webhook_listener import listen
from api.client import Client

webhooks = typer.Typer(
    help="Register endpoints that are told of jobs' ends; look at deliveries, and replay them.",
    no_args_is_help=True,
)
webhooks.command()(listen)
out = Console()

Webhook = Annotated[str, typer.Argument(help="The endpoint's id, ep_...", callback=named)]
Events = Annotated[
    list[str] | None,
    typer.Option("--event", help="Such as job.failed; given once for each. None is all of them."),
]
Secret = Annotated[
    str | None, typer.Option(help="Your own, whsec_... or whsk_...; left out, one is made.")
]
StateOption = Annotated[str | None, typer.Option(help="pending, delivered or dead.")]
EndpointOption = Annotated[str | None, typer.Option(help="Of this endpoint.")]
TypeOption = Annotated[str | None, typer.Option("--type", help="Of this event.")]
SubjectOption = Annotated[str | None, typer.Option("--job", help="Of this job or batch.")]


@webhooks.command()
def create(
    endpoint_url: Annotated[str, typer.Argument(help="Where events are posted to.")],
    event: Events = None,
    named_only: Annotated[
        bool, typer.Option("--named-only", help="Only of jobs that name the endpoint.")
    ] = False,
    description: Annotated[str, typer.Option()] = "",
    signature: Annotated[str, typer.Option(help="v1 (HMAC) or v1a (Ed25519).")] = "v1",
    secret: Secret = None,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Register an endpoint and show its secret, this once."""
    events = [] if named_only else event
    with Client(url) as client:
        made = client.create_webhook(
            endpoint_url,
            events=events,
            description=description,
            signature=signature,
            secret=secret,
        )
    if as_json:
        _json(made)
        return
    out.print(f"id: {made['id']}\nsecret: {made['secret']}", highlight=False)
    for key in made["public_keys"]:
        out.print(f"public key: {key}", highlight=False)


@webhooks.command("list")
def list_endpoints(url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """List the tenant's endpoints."""
    with Client(url) as client:
        found = client.list_webhooks()
    if as_json:
        _json(found)
        return
    table = Table("id", "url", "events", "state")
    for one in found:
        events = "all" if one["events"] is None else ", ".join(one["events"]) or "named only"
        state = "enabled" if one["enabled"] else f"disabled: {one['disabled_reason']}"
        table.add_row(one["id"], escape(one["url"]), events, escape(state))
    out.print(table)


@webhooks.command("get")
def get_endpoint(webhook: Webhook, url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """Show one endpoint."""
    with Client(url) as client:
        _tell(client.get_webhook(webhook), as_json)


@webhooks.command()
def update(
    webhook: Webhook,
    new_url: Annotated[str | None, typer.Option("--endpoint-url")] = None,
    event: Events = None,
    description: Annotated[str | None, typer.Option()] = None,
    enable: Annotated[bool | None, typer.Option("--enable/--disable")] = None,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Change an endpoint, disable it or enable it again."""
    given = {"url": new_url, "events": event, "description": description, "enabled": enable}
    fields = {name: value for name, value in given.items() if value is not None}
    with Client(url) as client:
        _tell(client.update_webhook(webhook, **fields), as_json)


@webhooks.command()
def delete(
    webhook: Webhook,
    url: UrlOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove an endpoint; what is on its way to it is not sent."""
    if not yes:
        typer.confirm(f"Remove the endpoint {webhook}?", abort=True)
    with Client(url) as client:
        client.delete_webhook(webhook)
    _tell({"deleted": webhook}, as_json)


@webhooks.command()
def rotate(
    webhook: Annotated[
        str | None,
        typer.Argument(help="The endpoint's id; none is the secret of URLs that jobs name."),
    ] = None,
    secret: Secret = None,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a new secret and show it, this once; the last one signs beside it for a day."""
    with Client(url) as client:
        _tell(client.rotate_webhook(webhook, secret), as_json)


@webhooks.command()
def ping(webhook: Webhook, url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """Send an endpoint `webhook.ping`; `lanefleet webhooks deliveries` says how it went."""
    with Client(url) as client:
        client.ping_webhook(webhook)
    _tell({"pinged": webhook}, as_json)


@webhooks.command()
def deliveries(
    state: StateOption = None,
    endpoint: EndpointOption = None,
    event_type: TypeOption = None,
    job: SubjectOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List what was sent and how it went, newest first; `--state dead` is what was given up."""
    with Client(url) as client:
        found = client.list_deliveries(
            state=state, endpoint=endpoint, type=event_type, subject=job, limit=limit
        )
    if as_json:
        _json(found)
        return
    table = Table("id", "event", "of", "to", "state", "attempts", "last")
    for one in found:
        table.add_row(*_row(one))
    out.print(table)


@webhooks.command()
def replay(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of deliveries.", callback=all_named)
    ] = None,
    state: StateOption = None,
    endpoint: EndpointOption = None,
    event_type: TypeOption = None,
    job: SubjectOption = None,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Send deliveries again under their ids: these, or all that match."""
    given = {"state": state, "endpoint": endpoint, "type": event_type, "subject": job}
    wanted = {name: value for name, value in given.items() if value is not None}
    if not ids and not wanted:
        raise typer.BadParameter("name deliveries, or say which, such as --state dead")
    with Client(url) as client:
        _tell({"deliveries": client.replay_deliveries(ids or None, **wanted)}, as_json)


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    last = one["attempts"][-1] if one["attempts"] else {}
    said = last.get("error") or str(last.get("status") or "")
    receiver = one["endpoint"] or one["url"] or ""
    cells = (one["id"], one["type"], one["subject"], escape(receiver), one["state"])
    return (*cells, str(len(one["attempts"])), escape(said))


def _tell(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _json(found)
        return
    for name, value in found.items():
        out.print(f"{name}: {value}", highlight=False, markup=False, soft_wrap=True)


def _json(found: Any) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
