"""The main job on real input, for somebody who has just cloned the repository.

Starts a fleet of its own on free ports with a Redis of its own, submits
photos and a dozen sentences over HTTP, shows what came back
and how the worker batched it, has a model write a sentence where it can, and
leaves nothing running.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from api.cli.demo_text import MODEL as WRITER
from api.cli.demo_text import can_write, write_sentence
from api.cli.fleet import Fleet, FleetFailed, free_port, project_root
from api.client import Client, Job
from common.settings import load_settings
from common.worker_report import WorkerReport

SENTENCES = (
    "The cat sleeps on the warm windowsill.",
    "A kitten is napping in the sun by the window.",
    "The rocket lifted off before dawn.",
    "At first light the spacecraft was launched.",
    "She ordered a large coffee to go.",
    "He bought an espresso on his way to work.",
    "The server ran out of memory at midnight.",
    "Last night the machine crashed because its RAM was full.",
    "Rain is expected over the weekend.",
    "The orchestra rehearsed the second movement.",
    "My bicycle has a flat tyre.",
    "The recipe calls for two eggs and a cup of flour.",
)
PHOTOS = ("astronaut.png", "rocket.jpg", "sign.png")
NAMED = ("cat.jpg", "coffee.jpg", "rocket.jpg")
"""Photos whose main thing is named."""
MODELS = ("minilm", "text-detect", "classify")
_READY_SECONDS = 300.0
_JOB_SECONDS = 120.0
_PAIRS_SHOWN = 4


def run_demo(console: Console, output: Path, *, keep: bool, as_json: bool) -> None:
    """Run the demo and print what it did. Raises FleetFailed when a job does not succeed."""
    catalog = project_root() / "deploy" / "models.yaml"
    models = (*MODELS, WRITER) if can_write(catalog) else MODELS
    with tempfile.TemporaryDirectory(prefix="lanefleet-demo-") as folder:
        settings = load_settings(
            redis_url=None, state_dir=Path(folder), models=models, catalog=catalog
        )
        lines: list[str] = []
        environment = {"LANEFLEET_MODELS": ",".join(models), "LANEFLEET_STATE_DIR": folder}
        fleet = Fleet(
            settings,
            free_port(),
            free_port() if keep else None,
            lambda name, line: lines.append(f"{name}: {line}"),
            environment,
        )
        try:
            with fleet:
                _show(console, fleet, output, as_json, writes=WRITER in models)
                if keep:
                    _hold(console, fleet)
        except FleetFailed:
            console.print("\n".join(lines[-20:]), markup=False)
            raise
        _say_where_next(console, kept=keep)


def _show(console: Console, fleet: Fleet, output: Path, as_json: bool, *, writes: bool) -> None:
    redis = fleet.redis
    console.print(
        f"[bold]Lanefleet[/] demo: API on {fleet.url}, {redis.flavour if redis else 'Redis'}, "
        "one Celery worker"
    )
    _await_models(console, fleet)
    with (
        Client(fleet.url) as client,
        ThreadPoolExecutor(len(SENTENCES) + len(PHOTOS) + len(NAMED)) as pool,
    ):
        began = time.perf_counter()
        job: dict[str, Any] = {"wait": _JOB_SECONDS, "cache": False}  # it is to be seen running
        photos = [
            pool.submit(client.submit_file, "text-detect", _photo(name), **job) for name in PHOTOS
        ]
        named = [pool.submit(client.submit_file, "classify", _photo(n), **job) for n in NAMED]
        texts = [pool.submit(client.submit, "minilm", text, **job) for text in SENTENCES]
        found = [_succeeded(future.result()) for future in photos]
        labels = [_succeeded(future.result())["result"]["labels"] for future in named]
        embedded = [_succeeded(future.result()) for future in texts]
        seconds = time.perf_counter() - began
        batches = _batches(client)
    pictures = [
        annotate(_photo(name), job["result"]["boxes"], output)
        for name, job in zip(PHOTOS, found, strict=True)
        if job["result"]["boxes"]
    ]
    pairs = similar_pairs([job["result"]["embedding"] for job in embedded])
    if as_json:
        document = {
            "seconds": round(seconds, 3),
            "boxes": {
                name: job["result"]["boxes"] for name, job in zip(PHOTOS, found, strict=True)
            },
            "labels": dict(zip(NAMED, labels, strict=True)),
            "pictures": [str(path) for path in pictures],
            "pairs": [(score, SENTENCES[a], SENTENCES[b]) for score, a, b in pairs],
            "batches": batches,
            "text": _written(console, fleet) if writes else None,
        }
        sys.stdout.write(json.dumps(document) + "\n")
        return
    _print_boxes(console, found, pictures)
    for name, best in zip(NAMED, labels, strict=True):
        said = ", ".join(f"{one['label']} {one['score']:.2f}" for one in best[:3])
        console.print(f"[bold]{name}[/] shows: {said}", highlight=False)
    _print_pairs(console, pairs)
    _print_batches(console, batches, seconds)
    if writes:
        _written(console, fleet)


def _written(console: Console, fleet: Fleet) -> str:
    with Client(fleet.url) as client:
        return write_sentence(console, client)


def _await_models(console: Console, fleet: Fleet) -> None:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting the worker", total=len(MODELS))

        def show(reports: list[WorkerReport]) -> None:
            if not reports:
                return
            lanes, loading = reports[0].lanes, reports[0].loading
            progress.update(
                task,
                completed=sum(lane.loaded for lane in lanes.values()),
                description=f"loading {loading}" if loading else "models loaded",
            )

        reports = fleet.wait_ready(_READY_SECONDS, show)
    for name, lane in reports[0].lanes.items():
        if lane.error:
            raise FleetFailed(f"{name} could not be loaded: {lane.error}")


def _photo(name: str) -> Path:
    return project_root() / "deploy" / "demo" / name


def _succeeded(job: Job) -> Job:
    if job["state"] != "succeeded":
        raise FleetFailed(f"job {job['id']} is {job['state']}: {job.get('error')}")
    return job


def _batches(client: Client) -> dict[str, dict[str, int]]:
    """Per model, how many batches of each size; waits for the worker's next report."""
    wanted = {"minilm": len(SENTENCES), "text-detect": len(PHOTOS)}
    deadline = time.monotonic() + 5
    while True:
        lanes = WorkerReport.of(client.list_workers()[0]).lanes
        counted = {name: lanes[name].batched_jobs for name in MODELS}
        if counted == wanted or time.monotonic() > deadline:
            return {name: lanes[name].batches for name in MODELS}
        time.sleep(0.1)


def similar_pairs(embeddings: list[list[float]]) -> list[tuple[float, int, int]]:
    """The most similar pairs as (cosine, index, index), best first. Vectors are unit length."""
    scored = [
        (sum(x * y for x, y in zip(embeddings[a], embeddings[b], strict=True)), a, b)
        for a, b in combinations(range(len(embeddings)), 2)
    ]
    return sorted(scored, reverse=True)[:_PAIRS_SHOWN]


def annotate(photo: Path, boxes: list[dict[str, Any]], output: Path) -> Path:
    """Draw the boxes into a copy of the photo at twice its size; returns the new file's path."""
    from PIL import Image, ImageDraw

    with Image.open(photo) as opened:
        image = opened.convert("RGB").resize((opened.width * 2, opened.height * 2))
    draw = ImageDraw.Draw(image)
    for box in boxes:
        corners = [(x * 2, y * 2) for x, y in box["polygon"]]
        draw.line([*corners, corners[0]], fill=(0, 255, 96), width=4)
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{photo.stem}-text.png"
    image.save(path)
    return path.resolve()


def _print_boxes(console: Console, found: list[Job], pictures: list[Path]) -> None:
    table = Table("photo", "box", "score", title="Text found by text-detect")
    for name, job in zip(PHOTOS, found, strict=True):
        boxes = job["result"]["boxes"]
        for box in boxes:
            corners = " ".join(f"({x:.0f},{y:.0f})" for x, y in box["polygon"])
            table.add_row(name, corners, f"{box['score']:.2f}")
        if not boxes:
            table.add_row(name, "[dim]no text[/]", "")
    console.print(table)
    for path in pictures:
        console.print(f"annotated: [bold]{_shown(path)}[/]", soft_wrap=True, highlight=False)


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _print_pairs(console: Console, pairs: list[tuple[float, int, int]]) -> None:
    table = Table("cosine", "sentence", "sentence", title="Most similar of 12 sentences by minilm")
    for score, a, b in pairs:
        table.add_row(f"{score:.2f}", SENTENCES[a], SENTENCES[b])
    console.print(table)


def _print_batches(console: Console, batches: dict[str, dict[str, int]], seconds: float) -> None:
    table = Table("model", "jobs", "batches", "their sizes", title="Batches the worker formed")
    for name, sizes in batches.items():
        spelled = [size for size, count in sizes.items() for _ in range(count)]
        jobs = sum(map(int, spelled))
        table.add_row(name, str(jobs), str(len(spelled)), ", ".join(spelled))
    console.print(table)
    console.print(f"{len(SENTENCES) + len(PHOTOS) + len(NAMED)} jobs over HTTP in {seconds:.2f} s")


def _hold(console: Console, fleet: Fleet) -> None:
    console.print(f"docs   {fleet.url}/docs\nflower http://127.0.0.1:{fleet.flower_port}")
    console.print("running until Ctrl-C")
    stopping = threading.Event()
    try:
        while not stopping.wait(0.5):
            fleet.check()
    except KeyboardInterrupt:
        console.print("stopping")


def _say_where_next(console: Console, *, kept: bool) -> None:
    if kept:
        return
    console.print(
        "\nWhere next (nothing is left running):\n"
        "  [bold]make up[/]                  the fleet on http://127.0.0.1:8000, docs at /docs,\n"
        "                           Flower on http://127.0.0.1:5555, until Ctrl-C\n"
        "  [bold].venv/bin/lanefleet submit minilm 'any sentence'[/]\n"
        "  [bold].venv/bin/lanefleet doctor[/]     what this machine has\n"
        "  deploy/models.yaml       the catalog: add your own model, see docs/models.md"
    )
