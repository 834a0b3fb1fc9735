"""`lanefleet workers`: what each live worker says of itself."""

from __future__ import annotations

import json
import sys

import typer
from rich.console import Console
from rich.table import Table

from api.cli.options import JsonFlag, UrlOption
from api.client import Client
from common.worker_report import WorkerReport

workers = typer.Typer(help="See the live workers.", no_args_is_help=True)
out = Console()


@workers.command("list")
def list_workers(url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """List the live workers with their models; `lanefleet stages` tells where their time goes."""
    with Client(url, retries=0) as client:
        found = client.list_workers()
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    table = Table("worker", "pid", "models")
    for report in map(WorkerReport.of, found):
        table.add_row(report.worker, str(report.pid), ", ".join(report.lanes))
    out.print(table)
