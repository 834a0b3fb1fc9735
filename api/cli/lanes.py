"""`lanefleet lanes`: what they hold, whose model is gone, and closing a circuit breaker."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from api.cli.lane_table import lane_table, wide_console
from api.cli.options import JsonFlag, UrlOption, all_named, named
from api.client import Client

lanes = typer.Typer(help="See what lanes hold; drop one that nobody serves.", no_args_is_help=True)
out = wide_console()


@lanes.command("list")
def list_lanes(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[LANE]...", help="Only these lanes.", callback=all_named),
    ] = None,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List lanes with their demand, jobs, age, pace, workers and circuit breaker."""
    with Client(url, retries=0) as client:
        found = client.list_lanes(*names or ())
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        out.print(lane_table(found))


@lanes.command()
def reset(
    lane: Annotated[str, typer.Argument(help="A model's name.", callback=named)],
    url: UrlOption = None,
) -> None:
    """Take its jobs again at once, after it failed so often that they are refused."""
    with Client(url) as client:
        out.print(f"{lane}: its circuit breaker is {client.reset_breaker(lane)['state']}")


@lanes.command()
def drop(
    lane: Annotated[str, typer.Argument(help="Its name; see `lanefleet status`.", callback=named)],
    url: UrlOption = None,
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
