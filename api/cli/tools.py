"""Runs a tool for models: a program of the worker's, shown with its progress and its report."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from common.errors import ConfigurationError, FleetError
from common.programs import ProgramFailed, lines_of
from common.settings import ENV_PREFIX

_PROGRAM = "worker.tools"
_WIDE = 200
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class ToolFailed(ConfigurationError):
    """The tool could not do it; the message says why."""

    code = "tool_failed"


class _Stopped(KeyboardInterrupt):
    """By a signal."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        self.number = number


def run_tool(name: str, arguments: Mapping[str, Any], *, as_json: bool) -> dict[str, Any]:
    """Run it to its end and print its report, which is returned too.

    Raises ToolFailed; Exit where it is stopped. With as_json either is a document on standard
    output too.
    """
    target = arguments.get("target")
    with documented(name, target and Path(target), as_json=as_json):
        report = last_shown(name, _lines_of(name, arguments))["report"]
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        show_report(report)
    return dict(report)


@contextmanager
def documented(name: str, target: Path | None, *, as_json: bool) -> Iterator[None]:
    """Inside a tool may fail, or be stopped by a signal."""
    try:
        with _stoppable():
            yield
    except KeyboardInterrupt as exc:
        said = _stopped(target)
        Console(stderr=True).print(f"{name}: {said}", highlight=False, markup=False, soft_wrap=True)
        _print_error(name, said, as_json=as_json)
        number = exc.number if isinstance(exc, _Stopped) else signal.SIGINT
        raise typer.Exit(128 + number) from exc
    except FleetError as exc:
        _print_error(name, str(exc), as_json=as_json)
        raise


def _print_error(name: str, said: str, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"tool": name, "error": said}) + "\n")


def _stopped(target: Path | None) -> str:
    if target is None:
        return "stopped; nothing was kept"
    learnt = target.parent / f".{target.name}.training"
    if learnt.exists():
        return (
            f"stopped; {target} was not made, and what it learnt is kept in {learnt}: the same "
            "command goes on"
        )
    return f"stopped; {target} was not made"


@contextmanager
def _stoppable() -> Iterator[None]:
    """Inside, what ends a process is an exception, so that its program is waited for."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise _Stopped(number)

    before = {one: signal.signal(one, stop) for one in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_shown(name: str, lines: Generator[dict[str, Any]]) -> dict[str, Any]:
    """The last line that a program says; what it does is shown on standard error meanwhile."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    last: dict[str, Any] = {}
    with (
        closing(lines),
        Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task(name, total=None)
        for last in lines:
            if "done" in last:
                doing = last.get("doing", name)
                progress.update(
                    task, description=doing, completed=last["done"], total=last["total"]
                )
    return last


def show_report(report: Mapping[str, Any]) -> None:
    """The figures, a line each, and the table where there is one."""
    out = Console()
    if not out.is_terminal:  # a file or a pipe has no width to which a table must be cut
        out = Console(width=_WIDE)
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


def _lines_of(name: str, arguments: Mapping[str, Any]) -> Generator[dict[str, Any]]:
    from api.cli.main import settings_for_checkout

    environment = {**os.environ, f"{ENV_PREFIX}CATALOG": str(settings_for_checkout().catalog)}
    try:
        yield from lines_of(_PROGRAM, (name, json.dumps(dict(arguments))), environment)
    except ProgramFailed as exc:
        raise ToolFailed(f"{name}: {exc}") from exc
