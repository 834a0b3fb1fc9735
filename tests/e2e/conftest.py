"""One `lanefleet up` for all tests of what people do with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from api.cli.fleet import free_port
from tests.support.stack import ROOT, wait_until

LANEFLEET = [sys.executable, "-m", "api.cli.main"]


@dataclass
class Up:
    """A running `lanefleet up`."""

    popen: subprocess.Popen[str]
    url: str
    flower: str
    log: Path

    def redis_url(self) -> str:
        """As the processes of this fleet find it."""
        state = self.log.parent / "state" / "redis.json"
        return str(json.loads(state.read_text())["url"])


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    catalog = (ROOT / "deploy" / "models.yaml").read_text()
    (folder / "models.yaml").write_text(f"{catalog}\naliases: {{sentences: minilm}}\n")
    port, flower = free_port(), free_port()
    log = folder / "log"
    with log.open("w") as stream:
        popen = subprocess.Popen(
            [*LANEFLEET, "up", "--port", str(port), "--flower-port", str(flower)],
            cwd=ROOT,
            env={
                **os.environ,
                "LANEFLEET_STATE_DIR": str(folder / "state"),
                "LANEFLEET_CATALOG": str(folder / "models.yaml"),
                "FLOWER_UNAUTHENTICATED_API": "true",
            },
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        )
    running = Up(popen, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{flower}", log)

    def ready() -> bool:
        assert popen.poll() is None, log.read_text()
        try:
            reports = httpx.get(f"{running.url}/v1/workers", timeout=2).json()
        except httpx.HTTPError:
            return False
        return bool(reports) and all(
            lane["loaded"] or lane["lazy"]
            for report in reports
            for lane in report["lanes"].values()
        )

    wait_until(ready, 110, "the fleet")
    yield running
    if popen.poll() is None:
        popen.send_signal(signal.SIGINT)
        popen.wait(60)
