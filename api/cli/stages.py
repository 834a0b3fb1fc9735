"""`lanefleet stages`: where the time goes, per worker and model, and what to do about it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.cli.guides import SYMPTOMS
from api.cli.options import JsonFlag, UrlOption
from api.client import Client
from common.worker_report import DeviceTimes, LaneReport, StageTime, WorkerReport

out = Console()

_MEANING = {
    "queue": "accepted, and waiting in Redis",
    "hold": "in a worker's hands: waits to be decoded, or for company",
    "decode": "its input is decoded",
    "device_wait": "decoded, and the device is busy with others",
    "collate": "its batch is put together and copied to the device",
    "infer": "its batch runs",
    "publish": "its batch waits for the finisher",
    "encode": "its batch is turned into JSON",
    "finish": "Redis publishes and acknowledges its batch",
}
_ADVICE = {
    "reserving": (
        "waits for jobs to come from Redis",
        "put Redis nearer, or raise LANEFLEET_LOOK_AHEAD_JOBS",
    ),
    "decoding": ("waits for decoding", "raise LANEFLEET_DECODE_THREADS, or give it more cores"),
    "company": (
        "waits for company that is being decoded",
        "raise LANEFLEET_DECODE_THREADS, or lower the model's max_wait_ms",
    ),
    "loading": (
        "waits for models to load",
        "raise LANEFLEET_MODEL_MEMORY_MB, or pin the models that come and go",
    ),
    "publishing": ("waits until results are published", "see why Redis is slow"),
    "other": ("is between two batches", "raise the model's max_batch, so that there are fewer"),
}
_BUSY_ENOUGH, _FULL_ENOUGH = 0.9, 0.5


def stages(
    url: UrlOption = None,
    over: Annotated[
        float,
        typer.Option(
            min=0, max=86_400, help="Look at the next so many seconds; 0 is since the start."
        ),
    ] = 0.0,
    as_json: JsonFlag = False,
) -> None:
    """Show where the time goes, stage by stage, and what the device waits for."""
    with Client(url, retries=0) as client:
        reports = _telling(client)
        if over:
            time.sleep(over)
            reports = list(_since(reports, _telling(client)))
    if as_json:
        sys.stdout.write(json.dumps([_facts(report) for report in reports]) + "\n")
        return
    if not reports:
        out.print("no worker reports; start one with `lanefleet worker`")
    for report in reports:
        out.print(_stage_table(report))
        out.print(
            f"[bold]{escape(report.worker)}[/]: {escape(sentence(report))}",
            highlight=False,
        )
        if text := prepared(report):
            out.print(f"  {text}", highlight=False)
        if entry := entry_of(report):
            out.print(f"  more: {entry}", highlight=False)


def _telling(client: Client) -> list[WorkerReport]:
    """The workers' reports, less those of an older version that do not say where time goes."""
    reports = [WorkerReport.of(found) for found in client.list_workers()]
    return [report for report in reports if report.device_time is not None]


def sentence(report: WorkerReport) -> str:
    """Where the device's time goes, and what would change that."""
    device = report.device_time or DeviceTimes()
    seconds, none = device.seconds, device.idle.get("no_work", 0.0)
    with_work = seconds - none
    if seconds <= 0 or with_work < 0.01 * seconds:
        return f"the device has no work {_percent(none, seconds)} of the time."
    busy = device.busy / with_work
    prefix = "" if none < 0.1 * seconds else "while there is work "
    if busy >= _BUSY_ENOUGH:
        return f"{prefix}the device is busy {busy:.0%} of the time{_if_unfilled(report)}."
    waits = {**device.idle, "other": device.other}
    cause = max(_ADVICE, key=lambda one: waits.get(one, 0.0))
    waited = waits.get(cause, 0.0)
    if waited / with_work < busy and busy >= _FULL_ENOUGH:
        prefix += f"the device is busy {busy:.0%} of the time and "
    else:
        prefix += "the device "
    what, remedy = _ADVICE[cause]
    return f"{prefix}{what} {_percent(waited, with_work)} of the time: {remedy}."


def prepared(report: WorkerReport) -> str:
    """What inputs to several models saved; empty where there were none."""
    kept = report.prepared
    inputs = kept.hits + kept.misses
    if not inputs:
        return ""
    return (
        f"of {inputs:,} inputs to models that share a preparation {kept.hits:,} were kept decoded "
        f"({kept.hits / inputs:.0%}), in {kept.bytes / 2**20:.1f} MB"
    )


def entry_of(report: WorkerReport) -> str | None:
    """The entry of the guide that goes on from the sentence; None where nothing is wrong."""
    device = report.device_time or DeviceTimes()
    with_work = device.seconds - device.idle.get("no_work", 0.0)
    if device.seconds <= 0 or with_work < 0.01 * device.seconds:
        return None
    busy = device.busy / with_work >= _BUSY_ENOUGH
    return SYMPTOMS["low throughput" if busy else "GPU under 80% busy"]


def _if_unfilled(report: WorkerReport) -> str:
    jobs = sum(lane.jobs for lane in report.lanes.values())
    room = sum(lane.room for lane in report.lanes.values())
    if not room or jobs / room >= _FULL_ENOUGH:
        return ""
    return f", with batches that are {jobs / room:.0%} full: more jobs at once would cost little"


def _stage_table(report: WorkerReport) -> Table:
    device = report.device_time or DeviceTimes()
    states = {"busy": device.busy, **device.idle, "other": device.other}
    shares = ", ".join(
        f"{name.replace('_', ' ')} {_percent(spent, device.seconds)}"
        for name, spent in states.items()
        if spent >= 0.005 * device.seconds
    )
    table = Table("model", "stage", "count", "mean ms", "share", "a job's time while")
    table.title = f"{report.worker} on {report.device}: {shares}"
    for name, lane in report.lanes.items():
        rows = list(_rows(lane))
        for number, row in enumerate(rows):
            table.add_row("" if number else escape(_label(name, lane)), *row)
        if rows:
            table.add_row("", *_batch_row(lane), end_section=True)
    return table


def _rows(lane: LaneReport) -> Iterator[tuple[str, str, str, str, str]]:
    means = {name: one.seconds / one.count for name, one in lane.stages.items()}
    whole = sum(means.values())
    for name, mean in means.items():
        about = _MEANING.get(name, "")
        if name == "decode":
            beside = _percent(lane.decode_beside_seconds, lane.stages[name].seconds)
            about += f"; {beside} beside a batch"
        count = str(lane.stages[name].count)
        yield name, count, f"{mean * 1000:.3f}", _percent(mean, whole), about


def _batch_row(lane: LaneReport) -> tuple[str, str, str, str, str]:
    padding = 1 - lane.cost / lane.padded_cost if lane.padded_cost else 0.0
    fill = _percent(lane.jobs, lane.room)
    return "batches", str(lane.jobs), "", fill, f"how full they are; {padding:.0%} is padding"


def _label(name: str, lane: LaneReport) -> str:
    return name if lane.model == name else f"{name} ({lane.model})"


def _percent(part: float, whole: float) -> str:
    return f"{max(0.0, part / whole):.0%}" if whole else "-"


def _since(before: list[WorkerReport], after: list[WorkerReport]) -> Iterator[WorkerReport]:
    """What happened between two reports of each worker; of one that is new, everything."""
    earlier = {(one.worker, one.pid): one for one in before}
    for report in after:
        old = earlier.get((report.worker, report.pid))
        if old is None:
            yield report
            continue
        lanes = {
            name: _lane_since(old.lanes.get(name, LaneReport()), lane)
            for name, lane in report.lanes.items()
        }
        device = _device_since(old.device_time or DeviceTimes(), report.device_time)
        yield replace(report, lanes=lanes, device_time=device)


def _lane_since(then: LaneReport, now: LaneReport) -> LaneReport:
    """now - then; stages that nothing went through in between are left out."""
    stages = {
        name: StageTime(one.count - old.count, one.seconds - old.seconds)
        for name, one in now.stages.items()
        if one.count != (old := then.stages.get(name, StageTime())).count
    }
    return replace(
        now,
        stages=stages,
        decode_beside_seconds=now.decode_beside_seconds - then.decode_beside_seconds,
        jobs=now.jobs - then.jobs,
        room=now.room - then.room,
        cost=now.cost - then.cost,
        padded_cost=now.padded_cost - then.padded_cost,
    )


def _device_since(then: DeviceTimes, now: DeviceTimes | None) -> DeviceTimes | None:
    if now is None:
        return None
    return DeviceTimes(
        seconds=now.seconds - then.seconds,
        busy=now.busy - then.busy,
        idle={cause: spent - then.idle.get(cause, 0.0) for cause, spent in now.idle.items()},
        other=now.other - then.other,
        recent_busy=now.recent_busy - then.recent_busy,
    )


_FACTS = ("stages", "decode_beside_seconds", "jobs", "room", "cost", "padded_cost")


def _facts(report: WorkerReport) -> dict[str, Any]:
    lanes = {}
    for name, lane in report.lanes.items():
        known = asdict(lane)
        lanes[name] = {"model": lane.model, **{fact: known[fact] for fact in _FACTS}}
    return {
        "worker": report.worker,
        "device": report.device,
        "device_time": asdict(report.device_time or DeviceTimes()),
        "lanes": lanes,
        "sentence": sentence(report),
        "more": entry_of(report),
    }
