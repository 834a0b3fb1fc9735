"""The commands for models from the shell: status, one JSON document, and how they are stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import ROOT, wait_until

# The handlers need no torch: `Waits` says that it loads, and takes until it is ended.
HANDLERS = """
import time
from pathlib import Path


class Waits:
    def load(self, spec, device):
        Path(spec.options["says"]).touch()
        time.sleep(600)

    def decode(self, value, params):
        return value

    def cost(self, item):
        return 1

    def infer(self, items):
        return items

    def encode(self, output):
        return output

    def export(self):
        raise AssertionError


class Breaks(Waits):
    def load(self, spec, device):
        raise ValueError("of its own")
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    waits = {"handler": "handlers:Waits", "options": {"says": str(tmp_path / "loads")}}
    models = {"waits": waits, "breaks": {"handler": "handlers:Breaks"}}
    (tmp_path / "models.yaml").write_text(json.dumps({"models": models}))
    (tmp_path / "made").mkdir()
    return tmp_path


def start(shop: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "api.cli.main", *words],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{shop}",
            "LANEFLEET_CATALOG": str(shop / "models.yaml"),
            "LANEFLEET_STATE_DIR": str(shop / "state"),
        },
        cwd=shop,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What runs the tests in its background has them ignore it, and their children too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, " ".join(err.split())


def document(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("export", "nobody", "made/it"), "there is no model 'nobody'"),
        pytest.param(("export", "waits", "made"), "made is there already", marks=pytest.mark.slow),
        (("quantize", "waits", "made", "--samples", "made"), "made is there already"),
        pytest.param(("check", "nobody"), "there is no model 'nobody'", marks=pytest.mark.slow),
        pytest.param(
            ("convert", "nothing.gguf", "made/it"),
            "there is no nothing.gguf",
            marks=pytest.mark.slow,
        ),
        (("export", "breaks", "made/it"), "handlers.py:29: ValueError: of its own"),
    ],
)
def test_what_is_wrong_is_status_2_with_a_sentence_and_a_document(
    shop: Path, words: tuple[str, ...], says: str
) -> None:
    status, out, err = ended(start(shop, *words, "--json"))
    assert (status, "Traceback" in err) == (2, False), err
    assert says in document(out)["error"]
    assert document(out)["tool"] == words[0]
    assert says in err
    assert list((shop / "made").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_a_tool_that_is_stopped_leaves_nothing_and_says_so(
    shop: Path, number: signal.Signals, status: int
) -> None:
    tool = start(shop, "export", "waits", "made/it", "--json")
    wait_until((shop / "loads").exists)
    assert list((shop / "made").iterdir()) != []
    tool.send_signal(number)
    found, out, err = ended(tool)
    assert found == status
    assert "export: stopped; " in err
    assert "made/it was not made" in document(out)["error"]
    assert "Traceback" not in err
    assert list((shop / "made").iterdir()) == []


def test_a_tool_whose_caller_is_killed_leaves_nothing(shop: Path) -> None:
    tool = start(shop, "export", "waits", "made/it")
    wait_until((shop / "loads").exists)
    tool.kill()
    tool.communicate()
    wait_until(lambda: list((shop / "made").iterdir()) == [])
