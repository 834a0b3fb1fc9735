"""`lanefleet top`: the lanes, looked at again and again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import httpx
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from api.cli.lane_table import lane_table, wide_console
from api.cli.options import JsonFlag, UrlOption, all_named
from api.client import Client, ClientError
from api.client.calls import base_url_of

out = wide_console()
Lanes = Mapping[str, Mapping[str, Any]]
Trouble = ClientError | httpx.HTTPError


def top(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[LANE]...", help="Only these lanes.", callback=all_named),
    ] = None,
    url: UrlOption = None,
    interval: Annotated[
        float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Watch the lanes, until Ctrl-C: those with the most demand first. --json: one line a look."""
    with Client(url, retries=0) as client:
        looks = _looks(client, tuple(names or ()), interval, once)
        if as_json:
            for lanes in looks:
                _write(lanes)
            return
        if once:
            out.print(lane_table(_sorted(client.list_lanes(*names or ()))))
            return
        with Live(console=out, screen=out.is_terminal, auto_refresh=False) as live:
            for lanes in looks:
                live.update(_page(base_url_of(url), lanes, interval), refresh=True)


def _looks(
    client: Client, names: tuple[str, ...], interval: float, once: bool
) -> Iterator[Lanes | Trouble]:
    """What the API says, or why it does not; the first look must succeed."""
    yield client.list_lanes(*names)
    while not once:
        time.sleep(interval)
        try:
            yield client.list_lanes(*names)
        except (ClientError, httpx.HTTPError) as exc:
            yield exc


def _sorted(lanes: Lanes) -> Lanes:
    return dict(sorted(lanes.items(), key=lambda one: (-one[1]["demand"], one[0])))


def _write(lanes: Lanes | Trouble) -> None:
    said = {"error": str(lanes)} if isinstance(lanes, Trouble) else {"lanes": lanes}
    sys.stdout.write(json.dumps({"at": time.time(), **said}) + "\n")
    sys.stdout.flush()


def _page(url: str, lanes: Lanes | Trouble, interval: float) -> RenderableType:
    head = f"{url}  {time.strftime('%H:%M:%S')}  every {interval:g} s"
    if isinstance(lanes, Trouble):
        return Group(Text(head), Text(f"no answer: {lanes}", style="red"))
    total = sum(lane["demand"] for lane in lanes.values() if not lane["abandoned"])
    return Group(Text(f"{head}  demand {total}"), lane_table(_sorted(lanes)))
