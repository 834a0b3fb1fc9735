"""`lanefleet enqueue`. Status 0: every row has a result; 1: some have none; 2: it could not run."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import orjson
import typer

from api.cli.enqueue.parquet import check_parquet
from api.cli.enqueue.progress import Reporter
from api.cli.enqueue.results import Results
from api.cli.enqueue.rows import Columns, Reader
from api.cli.enqueue.run import Options, Run, default_manifest
from api.cli.enqueue.say import Say
from api.cli.enqueue.sources import FORMATS, open_source
from api.cli.job_selection import read_labels
from api.cli.options import JsonFlag, UrlOption, named
from api.client import ApiError, Client, ClientError, Manifest, RetryPolicy

_FAILED, _COULD_NOT, _INTERRUPTED = 1, 2, 130
_PATIENT = RetryPolicy(retries=40, longest_retry_after_seconds=3600)
"""A lane may be full for hours, and the API away for minutes."""
_SHOWN_ROWS = 3


Source = Annotated[
    str, typer.Argument(help="A .jsonl, .csv, .parquet or .txt file, a folder, a glob, or -.")
]
Model = Annotated[str, typer.Option("--model", "-m", help="The model.", callback=named)]
Out = Annotated[Path | None, typer.Option(help="Results: .jsonl, .csv, .parquet, or a folder.")]
Form = Annotated[str | None, typer.Option("--format", help=f"Of the source: {', '.join(FORMATS)}.")]
InputColumn = Annotated[str | None, typer.Option(help="The column with the input.")]
IdColumn = Annotated[str | None, typer.Option(help="The column that names a row.")]
Param = Annotated[
    list[str] | None,
    typer.Option(help="COLUMN=PARAMETER: a column that the model takes as that parameter."),
]
Params = Annotated[str, typer.Option(help="Parameters of every row, a JSON object.")]
Label = Annotated[
    list[str] | None, typer.Option(help="Of every job, as run=42; may be given again.")
]
Priority = Annotated[int, typer.Option(min=0, max=9, help="0 is served first.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only so many rows.")]
Window = Annotated[int, typer.Option(min=1, help="Most rows in progress.")]
ChunkRows = Annotated[int, typer.Option(min=1, help="Rows in one request.")]
ManifestPath = Annotated[Path | None, typer.Option(help="What is done; else beside the results.")]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Read all, submit nothing.")]


def enqueue(
    source: Source,
    model: Model,
    out: Out = None,
    form: Form = None,
    input_column: InputColumn = None,
    id_column: IdColumn = None,
    param: Param = None,
    params: Params = "{}",
    label: Label = None,
    priority: Priority = 6,
    limit: Limit = None,
    window: Window = 4096,
    chunk: ChunkRows = 1024,
    manifest: ManifestPath = None,
    dry_run: DryRunFlag = False,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Run a model over a file, a folder or standard input; run again, it goes on where it was."""
    say = Say(as_json)
    columns = Columns(input_column, id_column, _columns_of(param))
    fields: dict[str, Any] = {"priority": priority}
    if labels := read_labels(label):
        fields["labels"] = labels
    options = Options(model, max(window, chunk), chunk, limit, fields)
    try:
        with _ended_by_sigterm(), Client(url, timeout=30.0, retries=_PATIENT) as client:
            reads = open_source(source, form, columns)
            _check_apart(source, out)
            reader = Reader(_kind_of(client, model), columns, reads.folder, _params_of(params))
            run = Run(reads, reader, options)
            status = _tell_dry(run, say) if dry_run else _run(run, client, out, manifest, say)
    except KeyboardInterrupt:
        say.event("stopped", done=0, failed=0)
        say.line("stopped before the first row")
        status = _INTERRUPTED
    except (ApiError, ClientError, httpx.HTTPError, OSError) as exc:
        say.trouble(_sentence(exc))
        status = _COULD_NOT
    raise typer.Exit(status)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM, by which schedulers stop a task, do what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_apart(source: str, out: Path | None) -> None:
    """Raise ClientError where results would become rows of the next run."""
    if out is None or not Path(source).is_dir():
        return
    if out.resolve().is_relative_to(Path(source).resolve()):
        raise ClientError(f"{out} lies in the folder that is read; write results elsewhere")


def _run(run: Run, client: Client, out: Path | None, manifest_path: Path | None, say: Say) -> int:
    if out is not None and out.suffix == ".parquet":
        check_parquet()
    if out is None and manifest_path is None:
        return _go(run, client, None, None, say)
    path = manifest_path or default_manifest(out or Path())
    path.parent.mkdir(parents=True, exist_ok=True)
    with Manifest(path) as manifest:
        _count_earlier(run, manifest)
        if manifest.note("finished"):
            return _nothing_left(run, manifest, say)
        results = None if out is None else Results(out, manifest)
        if results is not None:
            manifest.before_commit = results.flush
        status = _go(run, client, manifest, results, say)
        if results is not None and results.form == "parquet" and status in (0, _FAILED):
            manifest.before_commit = lambda: {"finished": "1"}
            manifest.commit()
            results.drop_parts()
    return status


def _go(
    run: Run, client: Client, manifest: Manifest | None, results: Results | None, say: Say
) -> int:
    try:
        with Reporter(run.count, run.model, say) as shown:
            run.go(client, manifest, results, shown)
        if results is not None:
            results.finish()
    except KeyboardInterrupt:
        say.event("stopped", done=run.count.done, failed=run.count.failed)
        _tell_how_to_go_on(run, manifest, say)
        return _INTERRUPTED
    except (ApiError, ClientError, httpx.HTTPError, OSError) as exc:
        say.trouble(_sentence(exc), done=run.count.done, failed=run.count.failed)
        _tell_how_to_go_on(run, manifest, say)
        return _COULD_NOT
    finally:
        if results is not None:
            results.close()
    return _tell_end(run, results, say)


def _count_earlier(run: Run, manifest: Manifest) -> None:
    counts = manifest.counts()
    counts.pop("open", None)
    run.count.before = sum(counts.values())
    run.failed_before = run.count.before - counts.get("succeeded", 0)


def _nothing_left(run: Run, manifest: Manifest, say: Say) -> int:
    say.line(
        f"all {run.count.before:,} rows were done by an earlier run; delete {manifest.path} and "
        "the results to begin anew"
    )
    say.event("end", done=0, failed=0, done_before=run.count.before)
    return _FAILED if run.failed_before else 0


def _tell_end(run: Run, results: Results | None, say: Say) -> int:
    count = run.count
    failed = count.failed + run.failed_before
    where = f" in {results.path}" if results else ""
    before = f", {count.before:,} of them by earlier runs" if count.before else ""
    say.line(f"{count.done + count.before - failed:,} results{where}{before}")
    if failed:
        told = f" in {results.failures}" if results else ""
        say.line(f"{failed:,} rows have no result{told}; the first:")
        for text in run.first_failures:
            say.line(f"  {text}")
    say.event(
        "end",
        done=count.done,
        failed=count.failed,
        done_before=count.before,
        out=str(results.path) if results else None,
        failures=str(results.failures) if results and failed else None,
    )
    return _FAILED if failed else 0


def _tell_how_to_go_on(run: Run, manifest: Manifest | None, say: Say) -> None:
    if not run.count.submitted:
        return
    say.line(f"{run.count.done:,} rows had an outcome, and what was submitted goes on")
    if manifest is not None:
        say.line("run the same command again to collect it, and to go on with the rest")


def _tell_dry(run: Run, say: Say) -> int:
    found = run.dry_run(_SHOWN_ROWS)
    say.event("dry_run", rows=found.rows, refused=found.refused, first=found.first, why=found.why)
    say.line(f"{found.rows:,} rows, of which {found.refused:,} would be refused here")
    for row in found.first:
        say.line(f"  {orjson.dumps(row, default=str).decode()[:200]}")
    for text in found.why:
        say.line(f"  refused: {text}")
    return _FAILED if found.refused else 0


def _kind_of(client: Client, model: str) -> Literal["text", "image", "audio", "json"]:
    """What the model takes; a key that may not ask is trusted."""
    try:
        kind: Literal["text", "image", "audio", "json"] = client.get_model(model)["input"]
    except ApiError as exc:
        if exc.status != 403:
            raise
        return "json"
    return kind


def _columns_of(pairs: list[str] | None) -> dict[str, str]:
    columns = {}
    for pair in pairs or ():
        column, _, parameter = pair.partition("=")
        if not column:
            raise typer.BadParameter(f"--param {pair!r}: write it as COLUMN=PARAMETER")
        columns[column] = parameter or column
    return columns


def _params_of(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise typer.BadParameter('--params has to be a JSON object, as {"top_k": 3}')
    return found


def _sentence(exc: Exception) -> str:
    if isinstance(exc, ApiError):
        return f"{exc} (HTTP {exc.status})"
    if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"results could not be written ({exc}); make room, and run it again to go on"
    if isinstance(exc, httpx.HTTPError):
        return f"the API does not answer ({exc}); start it, or name it with --url"
    return str(exc)
