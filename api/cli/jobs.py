"""`lanefleet jobs`: submit, look at, wait for, list, cancel and retry jobs.

Each command has the name of the HTTP operation and of the client's method.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.cli.job_input import Given, read_given
from api.cli.job_selection import (
    AfterOption,
    BeforeOption,
    DryRunFlag,
    LabelOption,
    ModelFilter,
    NewLabelOption,
    YesFlag,
    act_on_jobs,
    check_chosen,
    labels_text,
    read_labels,
)
from api.cli.options import JsonFlag, UrlOption, named
from api.client import TERMINAL, ApiError, Client, Job, StillRunning

jobs = typer.Typer(help="Submit, look at, wait for, list and cancel jobs.", no_args_is_help=True)
out = Console()
err = Console(stderr=True)

_INTERRUPTED = 130

JobId = Annotated[str, typer.Argument(help="The job's id.", callback=named)]
MaybeJobId = Annotated[
    str | None, typer.Argument(help="The job's id; else say which.", callback=named)
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", min=0, help="Longest to wait, seconds; else for ever.")
]


@jobs.command()
def submit(
    model: Annotated[
        str, typer.Argument(help="A model's name; see `lanefleet models list`.", callback=named)
    ],
    value: Annotated[
        str | None, typer.Argument(help="Text, a file's path, JSON, or - for stdin.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A file, in place of VALUE.")] = None,
    text: Annotated[
        bool, typer.Option("--text", help="VALUE is text, whatever it is like.")
    ] = False,
    url: UrlOption = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the result.")] = 60.0,
    priority: Annotated[int, typer.Option(min=0, max=9, help="0 is served first.")] = 0,
    params: Annotated[str, typer.Option(help="The model's parameters, a JSON object.")] = "{}",
    label: NewLabelOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Submit one job and print its result."""
    given = read_given(value, file, text)
    fields: dict[str, Any] = {"priority": priority, "params": _params(params)}
    if labels := read_labels(label):
        fields["labels"] = labels
    with Client(url) as client:
        try:
            job = _submit(client, model, given, text, fields)
        except KeyboardInterrupt:
            _say("whether the job was queued is not known; see", "lanefleet jobs list", url)
            raise typer.Exit(_INTERRUPTED) from None
        job = _follow(client, job, wait, url, as_json)
    _show(job, as_json)
    _exit_by(job)


@jobs.command()
def get(job_id: JobId, url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """Show a job as it is now, with its result once it is there."""
    with Client(url) as client:
        _show(client.get(job_id), as_json)


@jobs.command()
def wait(
    job_id: JobId, timeout: Timeout = None, url: UrlOption = None, as_json: JsonFlag = False
) -> None:
    """Wait until a job is settled and print it; fails where it has no result."""
    with Client(url) as client:
        job = _follow(client, client.get(job_id), timeout, url, as_json)
    _show(job, as_json)
    if job["state"] not in TERMINAL:
        raise typer.Exit(1)
    _exit_by(job)


@jobs.command()
def result(
    job_id: JobId,
    wait_seconds: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for it.")
    ] = 0.0,
    url: UrlOption = None,
    as_json: JsonFlag = False,  # noqa: ARG001 - it is JSON either way
) -> None:
    """Print a job's result and nothing else, as JSON."""
    with Client(url) as client:
        if wait_seconds:
            _follow(client, client.get(job_id), wait_seconds, url, False)
        sys.stdout.write(json.dumps(client.result(job_id)) + "\n")


@jobs.command()
def events(job_id: JobId, url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """Print a job's events as they happen, until it is settled."""
    with Client(url) as client:
        for event in client.events(job_id):
            if as_json:
                sys.stdout.write(json.dumps(event.job) + "\n")
                sys.stdout.flush()
            else:
                _show(event.job, False)


@jobs.command("list")
def list_jobs(
    model: ModelFilter = None,
    state: Annotated[str | None, typer.Option(help="Only jobs in this state now.")] = None,
    created_after: AfterOption = None,
    created_before: BeforeOption = None,
    label: LabelOption = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most jobs in one page.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List your jobs, newest first, without their results."""
    filters: dict[str, Any] = {
        **{"model": model, "state": state, "limit": limit, "cursor": cursor},
        **{"created_after": created_after, "created_before": created_before},
        "labels": read_labels(label),
    }
    with Client(url) as client:
        page = client.list_jobs(**filters)
    if as_json:
        sys.stdout.write(json.dumps(page) + "\n")
        return
    table = Table("job", "model", "state", "created", "attempts", "labels")
    for job in page["jobs"]:
        created, attempts = job.get("created_at", ""), str(job.get("attempts", 0))
        table.add_row(job["id"], job["model"], job["state"], created, attempts, labels_text(job))
    out.print(table)
    if "next_cursor" in page:
        out.print(f"more: --cursor {page['next_cursor']}", highlight=False)


@jobs.command()
def cancel(
    job_id: MaybeJobId = None,
    label: LabelOption = None,
    model: ModelFilter = None,
    state: Annotated[str | None, typer.Option(help="queued or running; else either.")] = None,
    created_after: AfterOption = None,
    created_before: BeforeOption = None,
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Cancel a job, or all that fit: queued, it never runs; running, it never publishes."""
    filters = {
        **{"labels": read_labels(label), "model": model, "state": state},
        **{"created_after": created_after, "created_before": created_before},
    }
    chosen = check_chosen(job_id, filters)
    with Client(url) as client:
        if job_id is not None:
            _show(client.cancel(job_id), as_json)
        else:
            act_on_jobs(client, "cancel", chosen, yes=yes, dry_run=dry_run, as_json=as_json)


@jobs.command()
def retry(
    job_id: MaybeJobId = None,
    label: LabelOption = None,
    model: ModelFilter = None,
    created_after: AfterOption = None,
    created_before: BeforeOption = None,
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Return a dead job, or all that fit, to the lane: same id, no attempts counted."""
    filters = {
        **{"labels": read_labels(label), "model": model},
        **{"created_after": created_after, "created_before": created_before},
    }
    chosen = check_chosen(job_id, filters)
    with Client(url) as client:
        if job_id is not None:
            _show(client.retry(job_id), as_json)
        else:
            act_on_jobs(client, "retry", chosen, yes=yes, dry_run=dry_run, as_json=as_json)


def _params(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except ValueError as exc:
        raise typer.BadParameter(f"--params is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise typer.BadParameter('--params has to be a JSON object, as {"top_k": 3}')
    return found


def _submit(client: Client, model: str, given: Given, as_text: bool, fields: dict[str, Any]) -> Job:
    """Without waiting, so that the id is known whatever happens next."""
    if not isinstance(given, str):
        return client.submit_file(model, given, **fields)
    value: Any = given
    if not as_text and _is_json(given) and _takes_json(client, model, given):
        value = orjson.loads(given)
    return client.submit(model, value, **fields)


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


def _takes_json(client: Client, model: str, value: str) -> bool:
    """Whether the model wants the value and not its text; a key that may not ask has to guess."""
    try:
        models = client.list_models()
    except ApiError as exc:
        if exc.status != 403:
            raise
        return value.lstrip().startswith(("{", "["))
    return any(one["name"] == model and one["input"] == "json" for one in models)


def _follow(client: Client, job: Job, seconds: float | None, url: str | None, as_json: bool) -> Job:
    """The job once it is settled, or after these seconds; its id is told if this is cut short."""
    if job["state"] in TERMINAL or seconds == 0:
        return job
    try:
        return client.wait(job["id"], seconds)
    except StillRunning as exc:
        _goes_on(exc.job, url)
        return exc.job
    except KeyboardInterrupt:
        _show(job, as_json)
        _goes_on(job, url)
        raise typer.Exit(_INTERRUPTED) from None
    except (ApiError, httpx.HTTPError):
        _goes_on(job, url)
        raise


def _goes_on(job: Job, url: str | None) -> None:
    _say("the job goes on; see", f"lanefleet jobs wait {job['id']}", url)
    _say("or end it with", f"lanefleet jobs cancel {job['id']}", url)


def _say(what: str, command: str, url: str | None) -> None:
    at = f" --url {url}" if url else ""
    err.print(f"{what} [bold]{escape(command + at)}[/]", highlight=False, soft_wrap=True)


def _exit_by(job: Job) -> None:
    if job["state"] in TERMINAL and job["state"] != "succeeded":
        raise typer.Exit(1)


def _show(job: Job, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(job) + "\n")
        sys.stdout.flush()
        return
    colour = {"succeeded": "green", "queued": "yellow", "running": "yellow"}.get(
        job["state"], "red"
    )
    out.print(f"[{colour}]{job['state']}[/] {escape(job['id'])}", highlight=False, soft_wrap=True)
    if labels := labels_text(job):
        out.print(labels, highlight=False, markup=False)
    if "error" in job:
        out.print(f"{job['error']['reason']}: {job['error']['message']}", markup=False)
    if "result" in job:
        out.print_json(json.dumps(job["result"]))
