"""Runs a tool for models: a program of the worker's, shown with its progress and its report."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from common.errors import FleetError
from common.programs import ProgramFailed, lines_of
from common.settings import ENV_PREFIX

_PROGRAM = "worker.tools"


class ToolFailed(FleetError):
    """The tool could not do it; the message says why."""

    code = "tool_failed"


def run_tool(name: str, arguments: Mapping[str, Any], *, as_json: bool) -> dict[str, Any]:
    """Run it to its end and print its report, which is returned too. Raises ToolFailed."""
    lines = _lines_of(name, arguments)
    report: dict[str, Any] = {}
    if as_json:
        for line in lines:
            report = line.get("report", report)
        sys.stdout.write(json.dumps(report) + "\n")
        return report
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None)
        for line in lines:
            if "doing" in line:
                progress.update(
                    task, description=line["doing"], completed=line["done"], total=line["total"]
                )
            report = line.get("report", report)
    show_report(report)
    return report


def show_report(report: Mapping[str, Any]) -> None:
    """The figures, a line each, and the table where there is one."""
    out = Console()
    for label, value in _figures(report):
        out.print(f"{label:>12}  {value}", highlight=False, soft_wrap=True, markup=False)
    if rows := report.get("rows"):
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*("" if value is None else str(value) for value in row.values()))
        out.print(table)


def _figures(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield report["tool"], report["model"]
    if report.get("made"):
        yield "made", report["made"]
    if report.get("bytes_after") is not None:
        before, after = report.get("bytes_before"), report["bytes_after"]
        was = f"{before / 1e6:.1f} MB -> " if before else ""
        yield "size", f"{was}{after / 1e6:.1f} MB"
    if report.get("ratio") is not None:
        yield "speed", f"{report['ratio']:.2f}x"
    if report.get("agreement") is not None:
        bound = f" (at least {report['tolerance']})" if report.get("tolerance") else ""
        what = f"{report['measure']} {report['agreement']:.4f}"
        yield "agreement", f"{what}{bound} on {report['samples']} held-out samples"
    for one in report.get("refused", ()):
        yield "refused", f"{one['what']}: {one['why']}"
    for note in report.get("notes", ()):
        yield "note", note
    yield "took", f"{report.get('seconds', 0):.1f} s"


def _lines_of(name: str, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    from api.cli.main import settings_for_checkout

    environment = {**os.environ, f"{ENV_PREFIX}CATALOG": str(settings_for_checkout().catalog)}
    try:
        yield from lines_of(_PROGRAM, (name, json.dumps(dict(arguments))), environment)
    except ProgramFailed as exc:
        raise ToolFailed(f"{name}: {exc}") from exc
