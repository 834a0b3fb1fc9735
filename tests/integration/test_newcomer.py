"""A model of one's own: two commands to its check, one more and the fleet serves it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.jobs.job import Job
from tests.support.stack import Stack, wait_until


def command(folder: Path, *arguments: str) -> tuple[int, str]:
    """The status and the standard output of `lanefleet`."""
    environment = {
        **os.environ,
        "LANEFLEET_CATALOG": str(folder / "models.yaml"),
        "LANEFLEET_STATE_DIR": str(folder / "state"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "api.cli.main", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr * (done.returncode == 2)


def check(folder: Path) -> tuple[int, Any]:
    status, said = command(folder, "check", "praise", "--seconds", "0.1", "--json")
    return status, json.loads(said)


@pytest.mark.slow
def test_a_newcomers_model_is_written_checked_broken_told_and_served(
    own_stack: Stack, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    status, said = command(folder, "new", "praise")
    assert status == 0, said
    assert "lanefleet check praise" in said
    status, said = command(folder, "new", "praise")
    assert (status, "is there already" in " ".join(said.split())) == (2, True)
    status, report = check(folder)
    assert (status, report["refused"]) == (0, [])
    assert report["rows"][-1]["batch"] == 32
    assert any(note.startswith("max_batch:") for note in report["notes"])

    right = (folder / "praise.py").read_text()
    (folder / "praise.py").write_text(right.replace("for item in items]", "for item in items[1:]]"))
    status, report = check(folder)
    assert status == 1
    assert report["refused"][0]["why"].startswith("praise.py:23: the model returned 0 outputs")
    (folder / "praise.py").write_text(right)

    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    subprocess.run(test, check=True, timeout=120)
    own_stack.worker("praise", LANEFLEET_CATALOG=str(folder / "models.yaml"))
    job = Job("praise", "a few words")
    own_stack.publish([job])
    record = wait_until(
        lambda: (found := own_stack.record(job.id)) and found.finished_ms and found, 30, "the job"
    )
    assert record.result == {"words": 3.0}
