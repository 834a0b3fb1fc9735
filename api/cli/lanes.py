"""`lanefleet lanes`: lanes whose model is gone, and dropping what they hold."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console

from api.cli.options import DEFAULT_URL, JsonFlag, UrlOption
from api.client import Client

lanes = typer.Typer(help="Drop a lane that nobody serves any more.", no_args_is_help=True)
out = Console()


@lanes.command()
def drop(
    lane: Annotated[str, typer.Argument(help="Its name; see `lanefleet status`.")],
    url: UrlOption = DEFAULT_URL,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Cancel every job of a lane that neither the catalog nor a live worker has."""
    if not yes:
        typer.confirm(f"Cancel all jobs of {lane}?", abort=True)
    with Client(url) as client:
        jobs = client.drop_lane(lane)
    if as_json:
        sys.stdout.write(json.dumps({"jobs": jobs}) + "\n")
    else:
        out.print(f"canceled: {jobs}")
