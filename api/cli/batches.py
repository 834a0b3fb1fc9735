"""`lanefleet batches`: run the lines of a file, watch, cancel, fetch the results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from api.cli.files import OutputOption, download, show
from api.cli.options import JsonFlag, UrlOption, named
from api.client import Client

batches = typer.Typer(help="Run files of requests as batches.", no_args_is_help=True)
out = Console()
err = Console(stderr=True)

Batch = Annotated[str, typer.Argument(help="The batch's id, batch_...", callback=named)]
_ALL, _SOME_FAILED = 0, 1


@batches.command()
def create(
    source: Annotated[str, typer.Argument(help="A file's id, or a path to upload.")],
    endpoint: Annotated[str, typer.Option(help="Whose requests the lines are.")] = "/v1/jobs",
    window: Annotated[str, typer.Option(help="How long it may take, as 30m, 24h, 2d.")] = "24h",
    meta: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE to keep with it; given once for each.")
    ] = None,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the requests of a file; its path is uploaded first."""
    metadata = dict(map(_pair, meta)) if meta else None
    with Client(url) as client:
        is_id = source.startswith("file-") and not Path(source).exists()
        if not is_id and not Path(source).is_file():
            raise typer.BadParameter(f"{source!r} is no file here, and no id such as file-...")
        file = source if is_id else client.create_file(source)["id"]
        made = client.create_batch(file, endpoint, completion_window=window, metadata=metadata)
    show(made, as_json)


@batches.command("list")
def list_batches(
    url: UrlOption = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: JsonFlag = False,
) -> None:
    """List your batches, newest first."""
    with Client(url) as client:
        found = client.list_batches(limit=limit)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    table = Table("id", "status", "endpoint", "done", "failed", "lines")
    for one in found:
        counts = one["request_counts"]
        numbers = (str(counts[name]) for name in ("completed", "failed", "total"))
        table.add_row(one["id"], one["status"], one["endpoint"], *numbers)
    out.print(table)


@batches.command()
def get(batch: Batch, url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """Show where a batch stands, how far it is, and its files."""
    with Client(url) as client:
        show(client.get_batch(batch), as_json)


@batches.command()
def wait(
    batch: Batch,
    output: OutputOption = None,
    timeout: Annotated[float | None, typer.Option(help="Longest to wait, seconds.")] = None,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Wait for a batch's end; with --output, download its results. Status 1 where a line failed."""
    with Client(url) as client:
        found = client.wait_batch(batch, timeout)
        if output is not None and found.get("output_file_id"):
            download(client, found["output_file_id"], output)
    show(found, as_json)
    raise typer.Exit(_status_of(found))


@batches.command()
def cancel(batch: Batch, url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """End a batch: what is done is in its files, the rest is canceled."""
    with Client(url) as client:
        show(client.cancel_batch(batch), as_json)


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise typer.BadParameter(f"{text!r}: write KEY=VALUE", param_hint="--meta")
    return key, value


def _status_of(found: dict[str, Any]) -> int:
    counts = found["request_counts"]
    done = found["status"] == "completed" and not counts["failed"]
    return _ALL if done else _SOME_FAILED
