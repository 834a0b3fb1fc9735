"""Cancels or retries all jobs that a filter finds: counted first, then with progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from api.client import Client, Job, Selected

out = Console()
err = Console(stderr=True)

LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", help="Only jobs with this label, as run=42; may be given again."),
]
NewLabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", help="A label to find it by, as run=42; may be given again."),
]
ModelFilter = Annotated[str | None, typer.Option("--model", help="Only jobs of this model.")]
AfterOption = Annotated[
    str | None, typer.Option(help="Only those queued then or later, as 2026-11-21T12:00:00Z.")
]
BeforeOption = Annotated[str | None, typer.Option(help="Only those queued then or earlier.")]
YesFlag = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Count them and do nothing.")]

_DONE = {"cancel": "canceled", "retry": "retried"}


def read_labels(pairs: list[str] | None) -> dict[str, str] | None:
    """Labels as typed; raises BadParameter for what is no pair."""
    labels: dict[str, str] = {}
    for pair in pairs or ():
        name, separator, value = pair.partition("=")
        if not (name and separator and value):
            raise typer.BadParameter(f"{pair!r} is no label; write it as run=42")
        labels[name] = value
    return labels or None


def labels_text(job: Job) -> str:
    """The labels of a job as they are typed."""
    return " ".join(f"{name}={value}" for name, value in job.get("labels", {}).items())


def check_chosen(job_id: str | None, filters: dict[str, Any]) -> dict[str, Any]:
    """The filters that are given; raises BadParameter unless there is an id or a filter."""
    chosen = {name: value for name, value in filters.items() if value is not None}
    if (job_id is None) == (not chosen):
        raise typer.BadParameter("give a job's id, or say which jobs, as by --label run=42")
    return chosen


def act_on_jobs(
    client: Client, action: str, filters: dict[str, Any], *, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Count what the filter finds, ask, then cancel or retry it."""
    act: Callable[..., Selected] = getattr(client, f"{action}_jobs")
    counted = act(**filters, dry_run=True)
    if dry_run or not counted.matched:
        _tell(counted, "match", as_json)
        return
    if not yes:
        typer.confirm(f"{action.capitalize()} {counted.matched:,} jobs?", abort=True, err=True)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=as_json, transient=True) as bar:
        task = bar.add_task(_DONE[action], total=counted.matched)
        done = act(**filters, on_progress=lambda now: bar.update(task, completed=now.matched))
    _tell(done, _DONE[action], as_json)


def _tell(done: Selected, what: str, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(done._asdict()) + "\n")
    elif what == "match":
        out.print(f"{done.matched:,} jobs match", highlight=False)
    else:
        out.print(f"{what}: {done.jobs:,} of {done.matched:,}", highlight=False)
