"""`lanefleet dead`: look at dead letters, retry them, drop them."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from api.cli.options import JsonFlag, UrlOption, named
from api.client import Client

dead = typer.Typer(help="Look at dead letters, retry them, drop them.", no_args_is_help=True)
out = Console()

Lane = Annotated[str, typer.Argument(help="The model's name.", callback=named)]
Ids = Annotated[list[str] | None, typer.Argument(help="Job ids; none is all of them.")]


@dead.command("list")
def list_letters(
    lane: Lane,
    url: UrlOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    as_json: JsonFlag = False,
) -> None:
    """List the lane's dead letters, newest first."""
    with Client(url, retries=0) as client:
        letters = client.list_dead(lane, limit=limit)
    if as_json:
        sys.stdout.write(json.dumps(letters) + "\n")
        return
    table = Table("job", "died", "attempts", "reason", "error")
    for letter in letters:
        died = datetime.fromtimestamp(letter["died_ms"] / 1000, UTC).isoformat(timespec="seconds")
        attempts = str(letter["attempts"])
        table.add_row(letter["id"], died, attempts, letter["reason"], letter["error"])
    out.print(table)


@dead.command()
def show(lane: Lane, job_id: str, url: UrlOption = None) -> None:
    """Show one dead letter with its message, as JSON."""
    with Client(url) as client:
        sys.stdout.write(json.dumps(client.show_dead(lane, job_id), indent=2) + "\n")


@dead.command()
def retry(lane: Lane, ids: Ids = None, url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """Put dead jobs back into their lane, with no attempts counted."""
    with Client(url) as client:
        _tell("put back", client.retry_dead(lane, ids or None), as_json)


@dead.command()
def purge(
    lane: Lane,
    ids: Ids = None,
    url: UrlOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Drop dead letters for good."""
    if not yes:
        typer.confirm(f"Drop {len(ids) if ids else 'all'} dead letters of {lane}?", abort=True)
    with Client(url) as client:
        _tell("dropped", client.purge_dead(lane, ids or None), as_json)


def _tell(what: str, jobs: int, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"jobs": jobs}) + "\n")
    else:
        out.print(f"{what}: {jobs}")
