"""`lanefleet outbox`: what settled jobs lead to and could not be sent."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.cli.options import JsonFlag, UrlOption
from api.client import Client

outbox = typer.Typer(
    help="Look at what jobs lead to and could not be sent; retry or drop it.", no_args_is_help=True
)
out = Console()

Ids = Annotated[list[str] | None, typer.Argument(help="Ids of entries; none is all of them.")]


@outbox.command("list")
def list_entries(
    url: UrlOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    as_json: JsonFlag = False,
) -> None:
    """List the entries that workers gave up, newest first."""
    with Client(url, retries=0) as client:
        found = client.list_outbox(limit=limit)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    table = Table("entry", "job", "given up", "leads to", "error")
    for one in found["entries"]:
        leads, error = ", ".join(one["leads_to"]), escape(one["error"])
        table.add_row(one["id"], one["job_id"], one["failed_at"], escape(leads), error)
    out.print(table)
    out.print(f"waiting: {found['waiting']}, given up: {found['failed']}")


@outbox.command()
def retry(ids: Ids = None, url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """Have workers try entries again that they gave up."""
    with Client(url) as client:
        _tell("put back", client.retry_outbox(ids or None), as_json)


@outbox.command()
def drop(
    ids: Ids = None,
    url: UrlOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Drop entries that workers gave up; what their jobs lead to is never sent."""
    if not yes:
        typer.confirm(f"Drop {len(ids) if ids else 'all'} entries of the outbox?", abort=True)
    with Client(url) as client:
        _tell("dropped", client.drop_outbox(ids or None), as_json)


def _tell(what: str, entries: int, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"entries": entries}) + "\n")
    else:
        out.print(f"{what}: {entries}")
