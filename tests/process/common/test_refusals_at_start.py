"""What a process cannot run with ends it at its start: status 2, and a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("role", "name", "value", "says"),
    [
        ("worker", "LANEFLEET_CATALOG", "{twice}", "line 3: the key 'm' is given twice"),
        ("api", "LANEFLEET_REDIS_ULR", "redis://x", "did you mean LANEFLEET_REDIS_URL?"),
        ("api.cli", "LANEFLEET_PROT", "80", "did you mean LANEFLEET_PORT?"),
    ],
)
def test_it_ends_with_status_2_and_one_sentence(
    tmp_path: Path, role: str, name: str, value: str, says: str
) -> None:
    twice = tmp_path / "models.yaml"
    twice.write_text("models:\n  m: {handler: echo}\n  m: {handler: minilm}\n")
    environment = {**os.environ, name: value.format(twice=twice), "USE_GPU": "false"}
    command = [sys.executable, "-c", "from api.cli import main; main()", "doctor"]
    if role != "api.cli":
        command = [sys.executable, "-m", role]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert says in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
