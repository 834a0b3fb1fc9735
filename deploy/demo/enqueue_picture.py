"""Runs a folder of JPEGs through text-detect by one command, and draws what it printed.

    python deploy/demo/enqueue_picture.py [PICTURES] [SVG]

starts a fleet of its own, and writes docs/enqueue.svg unless another file is named.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path

import typer
from PIL import Image
from rich.console import Console

from api.cli.enqueue import command, say
from api.cli.fleet import Fleet, free_port, project_root
from common.settings import load_settings

MODEL = "text-detect"
TYPED = "lanefleet enqueue photos/ --model text-detect --out texts.parquet"


def make_pictures(folder: Path, count: int) -> None:
    """JPEGs that differ: parts of the demo's pictures."""
    folder.mkdir()
    sources = [
        Image.open(one).convert("RGB")
        for one in sorted((project_root() / "deploy/demo").glob("*.*g"))
    ]
    for number in range(count):
        picture = sources[number % len(sources)]
        left, top = number % 40, number // 40
        width, height = picture.size
        part = picture.crop((left, top, width - 40 + left, height - 40 + top))
        part.thumbnail((320, 320))
        part.save(folder / f"photo-{number:03d}.jpg", quality=85)


def run(count: int, svg: Path) -> None:
    """Make pictures, run the command, draw."""
    console = Console(record=True, width=100, force_terminal=False, color_system="truecolor")
    say.err = console
    with tempfile.TemporaryDirectory(prefix="lanefleet-enqueue-") as name:
        folder = Path(name)
        make_pictures(folder / "photos", count)
        environment = {"LANEFLEET_MODELS": MODEL, "LANEFLEET_STATE_DIR": str(folder / "state")}
        settings = load_settings(
            redis_url=None,
            state_dir=folder / "state",
            models=(MODEL,),
            catalog=project_root() / "deploy" / "models.yaml",
        )
        with Fleet(settings, free_port(), None, lambda _name, _line: None, environment) as fleet:
            fleet.wait_ready(300)
            console.print(f"[bold]$[/] {TYPED}", highlight=False)
            began = time.monotonic()
            out = folder / "texts.parquet"
            status = 0
            try:
                command.enqueue(str(folder / "photos"), MODEL, out, url=fleet.url)
            except typer.Exit as exc:
                status = exc.exit_code
            seconds = time.monotonic() - began
    picture = console.export_svg(title="lanefleet enqueue")
    picture = picture.replace(f"{name}/", "")
    # Without the web fonts, so that looking at the picture fetches nothing.
    svg.write_text(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL))
    print(f"{count} pictures in {seconds:.1f} s, status {status}")  # noqa: T201


if __name__ == "__main__":
    given = sys.argv[1:]
    default = project_root() / "docs" / "enqueue.svg"
    run(int(given[0]) if given else 500, Path(given[1]) if len(given) > 1 else default)
