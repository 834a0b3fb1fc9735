"""A run in the terminal: a table with a bar a stage, the knee, and what to doubt."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.cli.bench.comparison import Change
from api.cli.bench.figures import KNEE_SHARE, Stage, is_still_rising, knee, spread

_BAR_WIDTH = 10
_WAITED = 0.5
"""Of the time in which it needed a core."""
_NEAR_LIMIT = 0.5
"""Of what the generator reaches by itself, from which on it may be what is measured."""
_SPARKS = "▁▂▃▄▅▆▇█"
_COLOURS = {"slower": "red", "faster": "green", "unclear": "yellow", "same": "default"}


def show_run(console: Console, stages: Sequence[Stage], limit_per_second: float) -> None:
    """The table, then the knee, errors and doubts, a line each."""
    console.print(_table(stages))
    for stage in stages:
        if len(stage.windows) > 1:
            console.print(_spark_line(stage), highlight=False)
    for line in (*_knee(stages), *_errors(stages), *doubts(stages, limit_per_second)):
        console.print(line, highlight=False)


def _table(stages: Sequence[Stage]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.title = escape(f"{stages[0].model}: results a second, and their latency in ms")
    for head in ("clients", "items/s", "p50", "p95", "p99", "errors", "batch", "busy", ""):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    best = max(one.items_per_second for one in stages)
    for one in stages:
        batch, busy = one.mean_batch, one.device_busy
        table.add_row(
            str(one.clients),
            number(one.items_per_second),
            *map(number, (one.p50_ms, one.p95_ms, one.p99_ms)),
            str(sum(one.errors.values())),
            "-" if batch is None else f"{batch:.1f}",
            "-" if busy is None else f"{busy:.0%}",
            "█" * round(_BAR_WIDTH * one.items_per_second / best) if best else "",
        )
    return table


def _spark_line(stage: Stage) -> str:
    items = [one.items for one in stage.windows]
    top = max(items, default=0)
    marks = "".join(_SPARKS[(one * (len(_SPARKS) - 1)) // top] for one in items) if top else ""
    return f"{stage.clients:>4} clients, over time: {marks} (±{spread(stage.windows):.0%})"


def _knee(stages: Sequence[Stage]) -> list[str]:
    found = knee(stages)
    if found is None:
        return ["[red]no result came[/]"]
    if len(stages) == 1:
        return []
    said = (
        f"[bold]knee: {found.clients} clients[/], {number(found.items_per_second)} items/s at p95 "
        f"{number(found.p95_ms)} ms: the fewest that reach {KNEE_SHARE:.0%} of the best"
    )
    if is_still_rising(stages):
        return [said, f"it is the most that were tried: try more than {found.clients}"]
    return [said]


def _errors(stages: Sequence[Stage]) -> list[str]:
    return [
        f"[red]{one.clients} clients:[/] {count} x {escape(kind)}"
        for one in stages
        for kind, count in sorted(one.errors.items(), key=lambda item: -item[1])
    ]


def doubts(stages: Sequence[Stage], limit_per_second: float) -> list[str]:
    """What the generator reaches by itself, and why figures may not be the fleet's."""
    lines = [
        f"this generator's own limit here, against an echo: {number(limit_per_second)} requests/s"
    ]
    fastest = max(one.items_per_second for one in stages)
    if fastest > _NEAR_LIMIT * limit_per_second:
        lines.append(
            "[yellow]the fleet came near it: run the bench on another machine, or several[/]"
        )
    if any(one.reused for one in stages):
        reused = sum(one.reused for one in stages)
        lines.append(f"[yellow]{reused} results were of the cache or of an identical job[/]")
    if any(one.device_busy is None for one in stages):
        lines.append(
            "the workers' reports could not be read: batch sizes are from the answers; a key with "
            "the scope admin (LANEFLEET_API_KEY) shows the devices too"
        )
    lines += unsteady(stages)
    busy = [one.machine_busy for one in stages if one.machine_busy is not None]
    if busy:
        lines.append(f"this machine's cores were in use {max(busy):.0%} at most, by whatever")
    return lines


def unsteady(stages: Sequence[Stage]) -> list[str]:
    """A line where the load itself had to wait for a core."""
    waited = max((one.generator_waited or 0.0 for one in stages), default=0.0)
    if waited < _WAITED:
        return []
    return [
        f"[yellow]the generator waited for a core {waited:.0%} of the time that it needed one[/]: "
        "this machine has more to do than it can, and figures follow what else runs"
    ]


def show_changes(console: Console, changes: Sequence[Change], before: Sequence[Stage] = ()) -> None:
    """Every figure beside what it was, and whether the machine was steady then."""
    if not changes:
        console.print(
            "[yellow]nothing to compare:[/] the two runs share no model and number of clients"
        )
        return
    for line in unsteady(before):
        console.print(f"in the run before, {line}", highlight=False)
    table = Table(title="compared with the run before", box=SIMPLE_HEAD)
    for head in ("clients", "figure", "before", "after", "worse by", "interval", "verdict"):
        table.add_column(head, justify="left" if head in ("figure", "verdict") else "right")
    for one in changes:
        colour = _COLOURS[one.verdict]
        table.add_row(
            str(one.clients),
            one.figure,
            number(one.before),
            number(one.after),
            f"{one.worse - 1:+.1%}",
            f"{one.low - 1:+.1%} to {one.high - 1:+.1%}",
            f"[{colour}]{one.verdict}[/]",
        )
    console.print(table)


def number(value: float) -> str:
    """Three digits that matter, or all of them before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
