"""`lanefleet files`: what was uploaded for batches, and their results."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.cli.options import JsonFlag, UrlOption, named
from api.client import Client

files = typer.Typer(help="Upload, list, download and delete files.", no_args_is_help=True)
out = Console()

File = Annotated[str, typer.Argument(help="The file's id, file-...", callback=named)]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="The file to write; else standard output.")
]


@files.command()
def create(
    path: Annotated[Path, typer.Argument(help="The file to upload.", exists=True, dir_okay=False)],
    expires_seconds: Annotated[
        int | None, typer.Option(help="How long it is kept; else as the operator set.")
    ] = None,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Upload a file of JSON lines for a batch."""
    with Client(url) as client:
        show(client.create_file(path, expires_seconds=expires_seconds), as_json)


@files.command("list")
def list_files(
    url: UrlOption = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: JsonFlag = False,
) -> None:
    """List your files, newest first."""
    with Client(url) as client:
        found = client.list_files(limit=limit)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    table = Table("id", "name", "purpose", "bytes", "made", "expires")
    for one in found:
        times = (_moment(one["created_at"]), _moment(one["expires_at"]))
        name = escape(one["filename"])
        table.add_row(one["id"], name, one["purpose"], str(one["bytes"]), *times)
    out.print(table)


@files.command()
def get(file: File, url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """Show one file's name, size and times."""
    with Client(url) as client:
        show(client.get_file(file), as_json)


@files.command()
def content(file: File, output: OutputOption = None, url: UrlOption = None) -> None:
    """Download a file."""
    with Client(url) as client:
        download(client, file, output)


@files.command()
def delete(
    file: File,
    url: UrlOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Delete a file that no unfinished batch reads."""
    if not yes:
        typer.confirm(f"Delete {file}?", abort=True)
    with Client(url) as client:
        client.delete_file(file)
    if as_json:
        sys.stdout.write(json.dumps({"id": file, "deleted": True}) + "\n")
    else:
        out.print(f"deleted: {file}", highlight=False)


def download(client: Client, file: str, output: Path | None) -> None:
    """Write a file's bytes, a piece at a time; a path is complete or not there."""
    if output is None:
        for piece in client.get_file_content(file):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    part = output.with_name(output.name + ".part")
    with part.open("wb") as stream:
        for piece in client.get_file_content(file):
            stream.write(piece)
    part.replace(output)


def show(found: dict[str, Any], as_json: bool) -> None:
    """Print the fields that are set."""
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for name, value in found.items():
        if value is not None and name != "object":
            text = _moment(value) if name.endswith("_at") else str(value)
            out.print(f"{name}: {escape(text)}", highlight=False, soft_wrap=True)


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
