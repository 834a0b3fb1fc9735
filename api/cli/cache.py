"""`lanefleet cache`: fill the cache before the users come, or empty it for a model."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from api.cli.options import JsonFlag, UrlOption
from api.client import ApiError, Client

cache = typer.Typer(help="Fill or empty the cache of results.", no_args_is_help=True)
out = Console()
err = Console(stderr=True)

_AT_ONCE = 64
_LAST_BAND = 9
_SHOWN_ERRORS = 10


@cache.command()
def warm(
    file: Annotated[
        Path, typer.Argument(help="One job a line, as for the bulk route; - is stdin.")
    ],
    url: UrlOption = None,
    wait_seconds: Annotated[
        float, typer.Option("--wait", help="Longest to wait for one job's result.")
    ] = 60.0,
    as_json: JsonFlag = False,
) -> None:
    """Run the jobs of a file, so that their results are there when somebody asks.

    They are served last, unless a line has a priority. Fails when one of them does.
    """
    outcomes: Counter[str] = Counter()
    with Client(url, timeout=wait_seconds + 10) as client, _lines(file) as lines:
        for line, outcome, detail in _run_all(client, lines, wait_seconds):
            outcomes[outcome] += 1
            if detail and outcomes[outcome] <= _SHOWN_ERRORS:
                err.print(f"line {line}: {detail}", markup=False, highlight=False)
    if as_json:
        sys.stdout.write(json.dumps(dict(outcomes)) + "\n")
    else:
        names = ("ran", "shared", "cached", "failed")
        out.print(", ".join(f"{outcomes[name]} {name}" for name in names), highlight=False)
    if outcomes["failed"]:
        raise typer.Exit(1)


@cache.command()
def purge(
    model: Annotated[str, typer.Argument(help="A model's name, or an alias.")],
    url: UrlOption = None,
) -> None:
    """Drop every result that is kept of a model."""
    with Client(url) as client:
        out.print(f"dropped {client.purge_cache(model)} results of {model}")


def _lines(file: Path) -> Any:
    # What is not UTF-8 is that line's error and not the end.
    if str(file) == "-":
        return io.TextIOWrapper(sys.stdin.buffer, "utf-8", "surrogateescape")
    return file.open(encoding="utf-8", errors="surrogateescape")


def _run_all(
    client: Client, lines: Iterable[str], wait_seconds: float
) -> Iterator[tuple[int, str, str]]:
    """Line number, what became of its job, and what went wrong; a bounded number at a time."""
    under_way: set[Future[tuple[int, str, str]]] = set()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            under_way.add(pool.submit(_run_one, client, number, line, wait_seconds))
            if len(under_way) == 2 * _AT_ONCE:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from (one.result() for one in done)
        yield from (one.result() for one in under_way)


def _run_one(client: Client, number: int, line: str, wait_seconds: float) -> tuple[int, str, str]:
    try:
        fields = {"priority": _LAST_BAND, **json.loads(line)}
        model, value = fields.pop("model"), fields.pop("input")
        job = client.submit(model, value, wait=wait_seconds, **fields)
    except (ValueError, TypeError, KeyError) as exc:
        return number, "failed", f"not a job: {exc!r}"
    except (ApiError, httpx.HTTPError) as exc:
        return number, "failed", str(exc)
    if job["state"] != "succeeded":
        return number, "failed", f"{job['id']} is {job['state']}: {job.get('error', 'not in time')}"
    outcome = next((name for name in ("cached", "shared") if job.get(name)), "ran")
    return number, outcome, ""
