"""`lanefleet enqueue` at size: its pace beside a bare bulk submit, its memory, a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from common.redis.embedded_server import RedisServer
from tests.support.stack import ROOT, ApiProcess, Stack, wait_until

pytestmark = pytest.mark.slow

ROWS = int(os.environ.get("ENQUEUE_ROWS", "200000"))
MOST_MB = 150
LANEFLEET = (sys.executable, "-c", "from api.cli import main; main()")


@pytest.fixture(scope="module")
def fleet(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = Stack(embedded_redis.url, tmp_path_factory.mktemp("large"))
    made.redis.flushall()
    made.worker("echo")
    yield made, made.api("echo")
    made.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    with path.open("wb") as stream:
        for n in range(ROWS):
            stream.write(orjson.dumps({"id": f"r{n}", "input": f"row {n} " + "x" * 80}) + b"\n")
    return path


def enqueue(api: ApiProcess, source: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [*LANEFLEET, "enqueue", str(source), "-m", "echo", "--out", str(out), "--json"]
    return subprocess.Popen(
        [*command, "--url", api.url], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def submit_all(api: ApiProcess, source: Path) -> None:
    """A bare bulk submit of the same rows, 512 a request."""
    rows = [orjson.loads(line)["input"] for line in source.read_bytes().splitlines()]
    lines = [orjson.dumps({"model": "echo", "input": one, "priority": 6}) for one in rows]
    with httpx.Client(base_url=api.url, timeout=120) as client:
        for first in range(0, len(lines), 512):
            body = b"\n".join(lines[first : first + 512]) + b"\n"
            answer = client.post("/v1/jobs/bulk", content=body)
            assert answer.text.count('"id"') == len(lines[first : first + 512])


def test_its_pace_and_memory(fleet: tuple[Stack, ApiProcess], source: Path, tmp_path: Path) -> None:
    stack, api = fleet
    done = stack.stats("echo").get("succeeded", 0)
    began = time.monotonic()
    submit_all(api, source)
    bare = ROWS / (time.monotonic() - began)
    wait_until(
        lambda: stack.stats("echo").get("succeeded", 0) - done >= ROWS, 600, "all to be done"
    )
    until_done = ROWS / (time.monotonic() - began)
    out = tmp_path / "results.jsonl"
    began = time.monotonic()
    process = enqueue(api, source, out)
    most_mb = 0.0
    while process.poll() is None:
        most_mb = max(most_mb, peak_mb(process.pid))
        time.sleep(0.05)
    pace = ROWS / (time.monotonic() - began)
    process.communicate()
    print(
        f"\n{ROWS:,} rows: bulk {bare:,.0f}/s accepted, {until_done:,.0f}/s done; enqueue "
        f"{pace:,.0f}/s with results: {pace / bare:.2f}, {pace / until_done:.2f}; "
        f"RSS {most_mb:.0f} MB; load {os.getloadavg()[0]:.1f}"
    )
    assert process.returncode == 0
    assert check_rows(out) == ROWS
    assert 0 < most_mb < MOST_MB


def test_a_kill_at_a_third_leaves_each_row_once(
    fleet: tuple[Stack, ApiProcess], source: Path, tmp_path: Path
) -> None:
    stack, api = fleet
    out = tmp_path / "results.jsonl"
    before = stack.stats("echo").get("succeeded", 0)
    process = enqueue(api, source, out)
    wait_until(lambda: stack.stats("echo").get("succeeded", 0) - before > ROWS // 3, 600, "a third")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = enqueue(api, source, out)
    _, err = again.communicate(timeout=900)
    assert again.returncode == 0, err
    assert check_rows(out) == ROWS
    ran = stack.stats("echo").get("succeeded", 0) - before
    print(f"\n{ran - ROWS:,} of {ROWS:,} rows ran twice; none is there twice")


def peak_mb(pid: int) -> float:
    """Of its resident memory; what rusage says has the parent's in it."""
    status = Path(f"/proc/{pid}/status")
    try:
        found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    except OSError:
        return 0.0
    return int(found[0].split()[1]) / 1024 if found else 0.0


def check_rows(out: Path) -> int:
    seen = set()
    with out.open() as stream:
        for line in stream:
            row = json.loads(line)
            assert row["id"] == f"r{row['index']}"
            assert row["index"] not in seen
            seen.add(row["index"])
    return len(seen)
