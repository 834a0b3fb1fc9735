"""The command `lanefleet bench`."""

from __future__ import annotations

import json
import statistics
import sys
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from api.cli.bench.comparison import THRESHOLD, compare, is_slower
from api.cli.bench.figures import Stage
from api.cli.bench.fleet_facts import choose_model
from api.cli.bench.inputs import Given, example_images
from api.cli.bench.meter import load_average
from api.cli.bench.plot import check_plot, draw
from api.cli.bench.record import Record, about_here, check_save
from api.cli.bench.run import Outcome, Plan, run
from api.cli.bench.show import number, show_changes, show_run
from api.cli.options import JsonFlag, UrlOption, named
from api.client import Client
from api.client.calls import base_url_of

_MOST_CLIENTS = 4096
_MOST_SECONDS = 3600.0
"""Of a stage that ends after a number of answers."""
_SLOWER = 1
"""The exit status where `--compare` finds that the run is slower."""
_NOT_COMPARED = 2
"""Where it finds nothing to compare, which must not pass for as fast."""
_INTERRUPTED = 130
"""After Ctrl-C; what was finished before is told and kept."""


class Mode(StrEnum):
    """What to find out."""

    QUICK = "quick"
    FULL = "full"
    SUSTAINED = "sustained"
    COLD = "cold"


_CLIENTS = {Mode.QUICK: (16,), Mode.FULL: (64,), Mode.SUSTAINED: (1, 10, 50, 100, 256)}
_SECONDS = {Mode.QUICK: 30.0, Mode.FULL: 60.0, Mode.SUSTAINED: 20.0, Mode.COLD: 120.0}


def _numbers(text: str) -> str:
    """Checked here, so that a wrong one is told before anything runs."""
    clients_of(text)
    return text


def clients_of(text: str) -> tuple[int, ...]:
    """Numbers of clients, ascending; raises BadParameter."""
    try:
        found = sorted({int(word) for word in text.split(",") if word.strip()})
    except ValueError:
        found = []
    if not found or found[0] < 1 or found[-1] > _MOST_CLIENTS:
        raise typer.BadParameter(f"numbers from 1 to {_MOST_CLIENTS} with commas, as 1,10,50")
    return tuple(found)


ModeOption = Annotated[
    Mode,
    typer.Option(
        help="quick: 30 s with 16 clients; full: 60 s with 64; sustained: 20 s with each of "
        "--clients, and where more of them bring no more; cold: from a worker's start to its "
        "first result, with a Redis of its own."
    ),
]
ClientsOption = Annotated[
    str | None,
    typer.Option(
        callback=lambda text: None if text is None else _numbers(text),
        help="Clients at once; several numbers are a stage each, as 1,10,50,100,256.",
    ),
]
ParamsOption = Annotated[str | None, typer.Option(help="The jobs' params, a JSON object.")]
TextOption = Annotated[list[str] | None, typer.Option(help="An input: text, or JSON; repeatable.")]
ImageOption = Annotated[list[Path] | None, typer.Option(help="An input: an image; repeatable.")]
FolderOption = Annotated[
    Path | None, typer.Option(help="Inputs: the images of a folder, and the lines of its .txt.")
]
RepeatOption = Annotated[
    bool,
    typer.Option(
        "--repeat-inputs",
        help="Send inputs as they are, again and again; the cache and identical jobs then answer.",
    ),
]


ModelOption = Annotated[
    str | None, typer.Option(callback=named, help="Any that the fleet serves; else it chooses.")
]
RequestsOption = Annotated[
    int | None, typer.Option(min=1, help="End each stage after so many answers.")
]
DurationOption = Annotated[
    float | None, typer.Option(min=1, max=86400, help="Seconds of each stage.")
]
RoundsOption = Annotated[
    int,
    typer.Option(min=1, max=20, help="Turns of each stage, so that all see the same machine."),
]
WarmupOption = Annotated[
    float, typer.Option(min=0, max=3600, help="Seconds before each stage that do not count.")
]
TimeoutOption = Annotated[
    float, typer.Option(min=1, max=86400, help="Seconds until a result is an error.")
]
TimesOption = Annotated[int, typer.Option(min=1, help="Starts, with --mode cold.")]
SaveOption = Annotated[Path | None, typer.Option(help="Keep the run in this JSON file.")]
CompareOption = Annotated[
    Path | None,
    typer.Option(
        "--compare",
        help="A kept run: status 1 where this one is slower, 2 where they share no stage.",
    ),
]
ThresholdOption = Annotated[float, typer.Option(min=0.01, max=1, help="How much worse is slower.")]
PlotOption = Annotated[Path | None, typer.Option(help="Draw the run into this PNG (or SVG).")]


def bench(
    mode: ModeOption = Mode.QUICK,
    url: UrlOption = None,
    model: ModelOption = None,
    clients: ClientsOption = None,
    requests: RequestsOption = None,
    duration: DurationOption = None,
    rounds: RoundsOption = 1,
    warmup: WarmupOption = 2.0,
    timeout: TimeoutOption = 60.0,
    text: TextOption = None,
    image: ImageOption = None,
    folder: FolderOption = None,
    params: ParamsOption = None,
    repeat_inputs: RepeatOption = False,
    times: TimesOption = 5,
    save: SaveOption = None,
    compare_with: CompareOption = None,
    threshold: ThresholdOption = THRESHOLD,
    plot: PlotOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Load a running fleet, and tell latency, throughput, batch sizes and errors."""
    texts, images = text or [], image or []
    if mode is Mode.COLD:
        _cold(model, texts, images, times, duration or _SECONDS[mode], as_json)
        return
    before = Record.load(compare_with) if compare_with else None
    if plot:
        check_plot(plot)
    if save:
        check_save(save)
    seconds = duration or (_SECONDS[mode] if requests is None else _MOST_SECONDS)
    numbers = clients_of(clients) if clients else _CLIENTS[mode]
    with Client(url, timeout=20, retries=0) as client:
        name, kind = choose_model(client, model, "image" if images else "text" if texts else None)
        given = Given.read(texts, images, folder, kind)
        how = (numbers, seconds, 0.0 if requests else warmup, requests, timeout, repeat_inputs)
        plan = Plan(base_url_of(url), name, kind, *how, given, _params(params), rounds)
        record, outcome = _run(plan, client, mode, Console(stderr=True))
    if save:
        record.save(save)
    if plot:
        draw(record.stages, plot)
    _report(record, outcome, before, threshold, as_json)


def _params(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise typer.BadParameter(f"--params is no JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise typer.BadParameter('--params must be a JSON object, as {"sleep_ms": 5}')
    return found


def _run(plan: Plan, client: Client, mode: Mode, progress: Console) -> tuple[Record, Outcome]:
    total = len(plan.clients) * (plan.seconds + plan.rounds * plan.warm_seconds)
    if progress.is_terminal:
        stages = "1 stage" if len(plan.clients) == 1 else f"{len(plan.clients)} stages"
        ends = f"about {total:.0f} s" if plan.most is None else f"{plan.most} answers each"
        progress.print(f"{plan.model}: {stages}, {ends}", highlight=False)

    def tell(stage: Stage) -> None:
        if progress.is_terminal:
            said = f"{number(stage.items_per_second)} items/s, p95 {number(stage.p95_ms)} ms"
            progress.print(f"  {stage.clients} clients: {said}", highlight=False)

    load = load_average()
    outcome = run(plan, client, tell)
    if not outcome.stages:
        sys.stderr.write("interrupted before a stage was finished: there is nothing to tell\n")
        raise typer.Exit(_INTERRUPTED)
    about = about_here(
        mode=mode.value,
        model=plan.model,
        input=plan.kind,
        warm_seconds=plan.warm_seconds,
        repeated_inputs=plan.repeat_inputs,
        params=plan.params,
        rounds=plan.rounds,
        generator_limit_per_second=round(outcome.limit_per_second, 1),
        load_before=load,
        load_after=load_average(),
        **({"interrupted": True} if outcome.interrupted else {}),
    )
    return Record(outcome.stages, about), outcome


def _report(
    record: Record, outcome: Outcome, before: Record | None, threshold: float, as_json: bool
) -> None:
    changes = compare(before.stages, record.stages, threshold) if before else []
    if as_json:
        said = record.as_dict()
        if before:
            said["changes"] = [one.as_dict() for one in changes]
        sys.stdout.write(json.dumps(said) + "\n")
    else:
        out = Console()
        show_run(out, record.stages, outcome.limit_per_second)
        if before:
            show_changes(out, changes, before.stages)
    if outcome.interrupted:
        raise typer.Exit(_INTERRUPTED)
    if before and not changes:
        raise typer.Exit(_NOT_COMPARED)
    if is_slower(changes):
        raise typer.Exit(_SLOWER)
    if not any(one.items for one in record.stages):
        raise typer.Exit(_SLOWER)


def _cold(
    model: str | None,
    texts: Sequence[str],
    images: Sequence[Path],
    times: int,
    timeout_seconds: float,
    as_json: bool,
) -> None:
    from api.cli.bench.cold import cold_starts
    from api.cli.main import settings_for_checkout

    def job_input(kind: str) -> Any:
        if kind != "image":
            return texts[0] if texts else "a worker's first sentence"
        file = images[0] if images else example_images()[0]
        return b64encode(file.read_bytes()).decode()

    name, starts = cold_starts(settings_for_checkout(), model, job_input, times, timeout_seconds)
    if as_json:
        said = {"model": name, "starts": [asdict(one) for one in starts], **about_here()}
        sys.stdout.write(json.dumps(said) + "\n")
        return
    table = Table("start", "first report s", "loaded s", "first result s")
    table.title = f"{name}: from the start of a worker's process"
    for turn, one in enumerate(starts, 1):
        table.add_row(str(turn), *(f"{each:.2f}" for each in asdict(one).values()))
    out = Console()
    out.print(table)
    median = statistics.median(one.first_result for one in starts)
    out.print(f"median: {median:.2f} s to the first result", highlight=False)
