"""The `lanefleet` command."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import httpx
import typer
from redis.exceptions import RedisError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.cli.acl import acl
from api.cli.batches import batches
from api.cli.bench.command import bench
from api.cli.cache import cache
from api.cli.check import check
from api.cli.compile import compile_model
from api.cli.convert import convert
from api.cli.dead import dead
from api.cli.distill import distill
from api.cli.doctor import Report, examine
from api.cli.enqueue.command import enqueue
from api.cli.export import export
from api.cli.files import files
from api.cli.fleet import Fleet, FleetFailed, free_port, project_root
from api.cli.generate import generate
from api.cli.jobs import jobs, submit
from api.cli.keys import keys
from api.cli.lanes import lanes
from api.cli.models import models
from api.cli.new import new
from api.cli.options import JsonFlag, UrlOption
from api.cli.outbox import outbox
from api.cli.profile import profile
from api.cli.prune import prune
from api.cli.quantize import quantize
from api.cli.stages import stages
from api.cli.system import show_system, system
from api.cli.top import top
from api.cli.webhooks import webhooks
from api.cli.workers import workers
from api.client import ApiError, Client, ClientError
from common.errors import ConfigurationError, FleetError
from common.redis.trouble import sentence_of
from common.settings import ENV_PREFIX, Settings, load_settings
from common.worker_report import WorkerReport

app = typer.Typer(
    help="Run ML models behind a queue.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.add_typer(cache, name="cache")
app.add_typer(dead, name="dead")
app.add_typer(models, name="models")
app.add_typer(lanes, name="lanes")
app.add_typer(keys, name="keys")
app.add_typer(jobs, name="jobs")
app.add_typer(workers, name="workers")
app.add_typer(outbox, name="outbox")
app.add_typer(webhooks, name="webhooks")
app.add_typer(files, name="files")
app.add_typer(batches, name="batches")
app.command()(submit)
app.command()(generate)
app.command()(enqueue)
app.command()(stages)
app.command()(bench)
app.command()(check)
app.command()(convert)
app.command()(new)
app.command("compile")(compile_model)
app.command()(export)
app.command()(quantize)
app.command()(profile)
app.command()(prune)
app.command()(distill)
app.command()(top)
app.command()(acl)
app.command()(system)
out = Console()
err = Console(stderr=True)

_COLOURS = {"api": "cyan", "worker": "green", "flower": "magenta", "redis": "yellow"}
_READY_SECONDS = 300.0


def settings_for_checkout(**overrides: Any) -> Settings:
    """The settings, with the checkout's own catalog when we are not started inside it."""
    settings = load_settings(**overrides)
    if not settings.catalog.exists() and "catalog" not in settings.model_fields_set:
        settings = settings.model_copy(
            update={"catalog": project_root() / "deploy" / "models.yaml"}
        )
    return settings


def relay(name: str, line: str) -> None:
    """Print one line of a process' log under its name."""
    out.print(
        f"[{_COLOURS.get(name, 'white')}]{name:>7}[/] │ {escape(line)}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def up(
    port: Annotated[int | None, typer.Option(help="The API's port; 0 picks a free one.")] = None,
    flower_port: Annotated[int, typer.Option(help="Flower's port; 0 picks a free one.")] = 5555,
    flower: Annotated[bool, typer.Option(help="Run Flower as well.")] = True,
    devices: Annotated[
        str | None, typer.Option(help="The workers' devices, as in `lanefleet worker`.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run Redis, the API, the workers and Flower here, until Ctrl-C."""
    settings = settings_for_checkout()
    api_port = (settings.port if port is None else port) or free_port()
    flower_at = (flower_port or free_port()) if flower else None
    stopping = threading.Event()

    def stop(_signum: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    environment = {} if as_json else {"LANEFLEET_LOG_FORMAT": "console"}
    if devices is not None:
        environment["LANEFLEET_DEVICES"] = devices
    on_line = _relay_json if as_json else relay
    with Fleet(settings, api_port, flower_at, on_line, environment) as fleet:
        _announce(fleet, as_json)
        while not stopping.wait(0.5):
            fleet.check()
        if not as_json:
            out.print("stopping: the running batches end, the rest goes back to the queue")


def _relay_json(name: str, line: str) -> None:
    sys.stdout.write(json.dumps({"process": name, "line": line}) + "\n")
    sys.stdout.flush()


def _announce(fleet: Fleet, as_json: bool) -> None:
    redis = fleet.redis
    where = {
        "api": fleet.url,
        "docs": f"{fleet.url}/docs",
        "flower": f"http://127.0.0.1:{fleet.flower_port}" if fleet.flower_port else None,
        "redis": redis.flavour if redis else None,
    }
    if as_json:
        sys.stdout.write(json.dumps(where) + "\n")
        sys.stdout.flush()
        return
    out.print(f"[bold]Lanefleet[/] on {where['redis']}; Ctrl-C stops everything")
    for name in ("api", "docs", "flower"):
        if where[name]:
            out.print(f"  {name:<7} {where[name]}")


@app.command()
def worker(
    devices: Annotated[
        str | None,
        typer.Option(
            help="auto, cuda, 0,1 or UUIDs for GPUs, mps, cpu, or cpu:2 for two CPU processes; "
            "see `python -m worker --help`."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Celery node name.")] = None,
) -> None:
    """Run workers on this machine, one process per device, until Ctrl-C."""
    command = [sys.executable, "-m", "worker"]
    if devices is not None:
        command += ["--devices", devices]
    if name is not None:
        command += ["--name", name]
    catalog = str(settings_for_checkout().catalog)
    # In our place, so that signals and the exit status need no relay.
    os.execve(command[0], command, {**os.environ, f"{ENV_PREFIX}CATALOG": catalog})  # noqa: S606


@app.command()
def status(url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """Show models, lanes and workers."""
    with Client(url, retries=0) as client:
        found: dict[str, Any] = {
            "models": client.list_models(),
            "lanes": client.list_lanes(),
            "workers": client.list_workers(),
        }
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    table = Table("model", "input", "weights", "loaded by", "waiting", "leased", "done", "dead")
    for model in found["models"]:
        lane = found["lanes"][model["name"]]
        table.add_row(
            model["name"],
            model["input"],
            model["weights"],
            str(len(model["loaded_by"])) + (" (failed)" if model["errors"] else ""),
            str(lane["waiting"]),
            str(lane["leased"]),
            str(lane.get("succeeded", 0)),
            str(lane["dead"]),
        )
    out.print(table)
    for name, lane in found["lanes"].items():
        if lane.get("abandoned"):
            jobs = lane["waiting"] + lane["leased"] + lane["delayed"]
            out.print(
                f"[red]{name}[/] has {jobs} jobs and nobody serves it: put its model back into "
                f"the catalog, or `lanefleet lanes drop {name}`"
            )
    for worker in map(WorkerReport.of, found["workers"]):
        for name, lane in worker.lanes.items():
            if lane.error:
                out.print(f"[red]{name}[/] on {worker.worker}: {lane.error}")


@app.command()
def doctor(
    url: Annotated[
        str | None,
        typer.Option("--url", help="A running API; what `lanefleet system` shows of it is added."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what this machine has, what is missing, and how to get it."""
    report, fleet = examine(settings_for_checkout()), None
    if url is not None:
        with Client(url, retries=0) as client:
            fleet = client.get_system()
    if as_json:
        also = {} if fleet is None else {"system": fleet}
        sys.stdout.write(json.dumps(report.as_dict() | also) + "\n")
        return
    _show_report(report)
    if fleet is not None:
        show_system(fleet, out)


def _show_report(report: Report) -> None:
    out.print(f"Python {report.python} on {report.platform}, {report.cores} cores")
    table = Table("package", "version")
    for name, found in report.packages.items():
        table.add_row(name, found or "[red]missing[/]")
    table.add_row("images", report.images)
    out.print(table)
    out.print("devices:", ", ".join(report.devices))
    redis = report.redis
    out.print("Redis:", redis.get("flavour") or redis.get("detail", "none"))
    for warning in redis["warnings"]:
        out.print(f"[yellow]warning[/] Redis: {escape(warning)}", highlight=False)
    if redis["can_start"]:
        out.print("        can start:", redis["can_start"])
    rows = Table("setting", "value", "from")
    for row in report.settings:
        rows.add_row(row["name"], escape(row["value"]), row["source"])
    out.print(rows)
    for name, state in report.mirrored.items():
        out.print(f"weights of {name}: {escape(state)}", highlight=False, soft_wrap=True)
    for name, remedy in report.missing.items():
        out.print(f"[red]missing[/] {name}: {escape(remedy)}")
    if not report.missing:
        out.print("[green]nothing is missing[/]")
    for symptom, entry in report.symptoms.items():
        out.print(f"{symptom}: {entry}", highlight=False)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the annotated picture.")] = Path(
        "demo-output"
    ),
    keep: Annotated[bool, typer.Option(help="Keep the fleet running until Ctrl-C.")] = False,
    svg: Annotated[Path | None, typer.Option(help="Save what is printed as a picture.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the main job on real input: text found in a photo, sentences compared."""
    from api.cli.demo import run_demo

    console = Console(stderr=as_json, record=svg is not None, width=100 if svg else None)
    run_demo(console, output, keep=keep, as_json=as_json)
    if svg:
        picture = console.export_svg(title="make demo")
        # Without the web fonts, so that looking at the picture fetches nothing.
        svg.write_text(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL))


def main() -> None:
    """Run the command; turn known errors into one line and status 2."""
    try:
        app()
    except ConfigurationError as exc:
        err.print(f"[red]lanefleet:[/] {escape(str(exc))}", highlight=False)
        sys.exit(2)
    except (FleetFailed, FleetError) as exc:
        err.print(f"[red]lanefleet:[/] {escape(str(exc))}", highlight=False)
        sys.exit(1)
    except ApiError as exc:
        err.print(f"[red]lanefleet:[/] {escape(str(exc))} (HTTP {exc.status})", highlight=False)
        sys.exit(1)
    except ClientError as exc:
        err.print(f"[red]lanefleet:[/] {escape(str(exc))}", highlight=False)
        sys.exit(1)
    except RedisError as exc:
        text = f"{sentence_of(exc)} ({exc}); see LANEFLEET_REDIS_URL and `lanefleet doctor`"
        err.print(f"[red]lanefleet:[/] {escape(text)}", highlight=False)
        sys.exit(1)
    except httpx.InvalidURL as exc:
        text = f"--url (or LANEFLEET_URL) is no address: {exc}"
        err.print(f"[red]lanefleet:[/] {escape(text)}", highlight=False)
        sys.exit(2)
    except UnicodeEncodeError:
        err.print("[red]lanefleet:[/] what was given is not UTF-8", highlight=False)
        sys.exit(2)
    except OSError as exc:  # a file; the network's errors are httpx's and redis-py's
        err.print(f"[red]lanefleet:[/] {escape(str(exc))}", highlight=False)
        sys.exit(1)
    except httpx.HTTPError as exc:
        err.print(
            f"[red]lanefleet:[/] the API does not answer ({escape(str(exc))}); "
            "start it with `lanefleet up`, or name it with --url",
            highlight=False,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
