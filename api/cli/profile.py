"""`lanefleet profile`: what a running API or worker process of this machine does with its time."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.cli.options import JsonFlag
from common.errors import ConfigurationError, FleetError
from common.profiling.local_socket import FOLDER, LocalRefused, asked, is_listening, read_answer
from common.settings import load_settings

out = Console()

_ASK_SECONDS = 10.0
_DEVICE_SLACK_SECONDS = 400.0
"""Besides the recording: a batch in progress, and torch's writing of the trace."""
_SHOWN_SHAPES = 3


class Target(StrEnum):
    """Which kind of process."""

    API = "api"
    WORKER = "worker"


class ProfileFailed(FleetError):
    """The profile could not be taken."""

    code = "profile_failed"


@dataclass(frozen=True, slots=True)
class Running:
    """A process of this user, by the socket on which it can be asked."""

    kind: str
    pid: int
    path: Path


def profile(
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long to look.")] = 60,
    target: Annotated[Target, typer.Option(help="A process of the API, or a worker.")] = (
        Target.WORKER
    ),
    pid: Annotated[int | None, typer.Option(help="Which of several; else the busiest.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for what is written.")] = Path(
        "profile-output"
    ),
    rate: Annotated[int, typer.Option(min=1, max=1000, help="Samples a second.")] = 100,
    native: Annotated[bool, typer.Option(help="C and C++ frames as well.")] = False,
    device_seconds: Annotated[
        float,
        typer.Option(
            min=0, max=60, help="How long torch records the device's thread; 0 is not at all."
        ),
    ] = 5,
    as_json: JsonFlag = False,
) -> None:
    """Draw a flame graph of a process of this machine, and record a worker's device in torch.

    Runs on the machine and as the user of the process, or as root; nothing of it is on HTTP.
    """
    settings = load_settings()
    running = choose(find_running(settings.state_dir, target), settings.state_dir, target, pid)
    sampler = _sampler()
    output.mkdir(parents=True, exist_ok=True)
    flames = output / f"{running.kind}-{running.pid}.svg"
    with ThreadPoolExecutor(1) as pool:
        recording: Future[dict[str, Any]] | None = None
        if target is Target.WORKER and device_seconds:
            recording = pool.submit(_record_device, running, min(device_seconds, seconds), output)
        if not as_json:
            out.print(f"{running.kind} {running.pid}: {seconds:g} s", highlight=False)
        _draw_flames(sampler, running, seconds, rate, native, flames)
        device, refused = _result_of(recording)
    about = {"target": running.kind, "pid": running.pid, "flame_graph": str(flames)}
    said = {**about, "device": device, "device_refused": refused, "nsys": nsys_command(target)}
    if as_json:
        sys.stdout.write(json.dumps(said) + "\n")
    else:
        _show(said)


def find_running(state_dir: Path, target: Target) -> list[Running]:
    """The processes of this kind that listen in the state folder.

    Raises ProfileFailed where others than its owner may put sockets there.
    """
    found = []
    folder = state_dir / FOLDER
    if folder.is_symlink() or (folder.exists() and folder.stat().st_mode & 0o022):
        raise ProfileFailed(
            f"others may write to {folder}, so what listens there may be anybody's: make it a "
            "folder of mode 0700 and restart the processes"
        )
    for path in sorted(folder.glob(f"{target.value}-*.sock")):
        number = path.stem.rpartition("-")[2]
        if number.isdigit() and is_listening(path):
            found.append(Running(target.value, int(number), path))
    return found


def choose(running: list[Running], state_dir: Path, target: Target, pid: int | None) -> Running:
    """The one with this id, or the busiest. Raises ProfileFailed with what to look at."""
    if not running:
        raise ProfileFailed(
            f"no {target.value} process listens in {state_dir / FOLDER}: run this where it runs, "
            "with its LANEFLEET_STATE_DIR and as its user; LANEFLEET_PROFILING=false has it listen "
            "to nobody"
        )
    if pid is None:
        return max(running, key=lambda one: _cpu_seconds(one.pid))
    for one in running:
        if one.pid == pid:
            return one
    known = ", ".join(str(one.pid) for one in running)
    raise ProfileFailed(f"no {target.value} process has the id {pid}; there are {known}")


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


def _sampler() -> str:
    """Where py-spy is; beside our Python, as in a virtual environment that is not activated."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise ConfigurationError("profile needs py-spy: pip install py-spy")
    return found


def _draw_flames(
    sampler: str, running: Running, seconds: float, rate: int, native: bool, file: Path
) -> None:
    command = [
        *(sampler, "record", "--pid", str(running.pid), "--output", str(file)),
        *("--duration", str(max(1, round(seconds))), "--rate", str(rate)),
        *("--format", "flamegraph", "--threads"),
        *(["--native"] if native else []),
    ]
    with asked(running.path, {"do": "trace"}, _ASK_SECONDS) as permission:
        read_answer(permission)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode or not file.exists():
        words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        said = words[-1] if words else f"it ended with status {done.returncode}"
        raise ProfileFailed(
            f"py-spy could not look into process {running.pid}: {said}. It must be allowed to "
            "trace it: the same user or root, and in a container the capability SYS_PTRACE where "
            "its runtime forbids tracing"
        )


def _record_device(running: Running, seconds: float, output: Path) -> dict[str, Any]:
    request = {"do": "device", "seconds": seconds}
    with asked(running.path, request, seconds + _DEVICE_SLACK_SECONDS) as connection:
        found: dict[str, Any] = read_answer(connection)
    file = output / f"{running.kind}-{running.pid}-trace.json"
    take_over(str(found.get("file")), running.path, file)
    return {**found, "file": str(file)}


def take_over(said: str, by: Path, file: Path) -> None:
    """Move the trace that a process says it has written to `file`; by is its socket.

    Whoever profiles may be root, and the process not: so it may name nothing but a trace of its
    own in its own folder. Raises LocalRefused else, OSError where it cannot be read or written.
    """
    name = Path(said).name
    if not (name.startswith("trace-") and name.endswith(".json")):
        raise LocalRefused(f"the process names {said!r} as its trace, which is none")
    folder = os.open(by.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        trace = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        with os.fdopen(trace, "rb") as source:
            about, owner = os.fstat(trace), os.stat(by.name, dir_fd=folder).st_uid
            if not stat.S_ISREG(about.st_mode) or about.st_uid != owner or about.st_nlink != 1:
                raise LocalRefused(f"{said} is no file that the process has written")
            with file.open("wb") as target:
                shutil.copyfileobj(source, target)
        os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)


def _result_of(recording: Future[dict[str, Any]] | None) -> tuple[dict[str, Any] | None, str]:
    """What was recorded, or why it was not."""
    if recording is None:
        return None, ""
    try:
        return recording.result(), ""
    except LocalRefused as exc:
        return None, str(exc)
    except OSError as exc:
        return None, f"the trace could not be taken over: {exc}"


def nsys_command(target: Target) -> str | None:
    """How to run a worker under Nsight Systems; None where it is not installed.

    It cannot attach to a process that runs: the worker has to be started under it.
    """
    if target is not Target.WORKER or shutil.which("nsys") is None:
        return None
    words = [
        *("nsys", "profile", "--trace=cuda,nvtx,cublas,cudnn,osrt", "--delay=60", "--duration=30"),
        *("--kill=none", "--output=worker", sys.executable, "-m", "worker", "--devices", "0"),
    ]
    return shlex.join(words)


def _show(said: dict[str, Any]) -> None:
    out.print(f"flame graph: {said['flame_graph']}", soft_wrap=True, highlight=False)
    device = said["device"]
    if device is not None:
        out.print(f"trace:       {device['file']}", soft_wrap=True, highlight=False)
        out.print("             open it at chrome://tracing or in Perfetto", highlight=False)
        out.print(_table(device))
    elif said["device_refused"]:
        out.print(f"no trace of the device: {escape(said['device_refused'])}", highlight=False)
    if said["nsys"]:
        out.print("kernels and copies in full, from a worker started under nsys:")
        out.print(f"  {said['nsys']}", soft_wrap=True, highlight=False)


def _table(device: dict[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    where = "device" if device["on_gpu"] else "CPU"
    table.title = f"{where} time of the device's thread in {device['seconds']:g} s"
    table.add_column("operation", overflow="fold")
    table.add_column("input shapes", overflow="fold")
    for head in ("calls", "ms", "share", "MB"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in device["rows"]:
        table.add_row(
            escape(row["operation"]),
            escape(" ".join(str(one).replace(" ", "") for one in row["shapes"][:_SHOWN_SHAPES])),
            str(row["calls"]),
            f"{row['ms']:,.1f}",
            f"{row['share']:.0%}",
            f"{row['mb']:,.1f}",
        )
    return table
