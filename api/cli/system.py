"""`lanefleet system`: the fleet in one view; `lanefleet doctor --url` shows it too."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.cli.options import JsonFlag, UrlOption
from api.client import Client

out = Console()


def system(url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """Show the fleet: status, memory, versions, what makes it fast, Redis."""
    with Client(url, retries=0) as client:
        found = client.get_system()
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        show_system(found, out)


def show_system(found: dict[str, Any], console: Console) -> None:
    """Print what `GET /v1/system` answers."""
    processes = Table("process", "device", "MB", "models", "cold start (s)")
    for one in found["processes"]:
        cold = one["cold_start_seconds"]
        processes.add_row(
            one["name"],
            one["device"] or "",
            f"{one['memory_mb']:.0f}",
            ", ".join(one["models"]),
            "" if cold is None else f"{cold:.1f}",
        )
    gpu, speed = found["memory_usage"], found["performance"]
    console.print(f"status: [bold]{found['status']}[/]")
    console.print(processes)
    console.print(
        f"memory: {speed['memory_mb']:.0f} MB; GPU: {gpu['gpu_allocated_gb']:g} GB in tensors, "
        f"{gpu['gpu_reserved_gb']:g} GB reserved"
    )
    for title, rows in (
        ("optimization", speed["optimizations"]),
        ("package", found["versions"]),
        ("redis", {name: value for name, value in found["redis"].items() if name != "warnings"}),
    ):
        table = Table(title, "")
        for name, value in rows.items():
            table.add_row(name, escape(_text(value)))
        console.print(table)
    for warning in found["redis"]["warnings"]:
        console.print(f"[yellow]warning[/] Redis: {escape(warning)}", highlight=False)
    if (outbox := found["outbox"]) and outbox["failed"]:
        console.print(
            f"[yellow]outbox[/] {outbox['failed']} entries were given up: `lanefleet outbox list`"
        )


def _text(value: Any) -> str:
    if value is None:
        return "not in use"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)
