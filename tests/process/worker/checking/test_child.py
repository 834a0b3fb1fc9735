"""What a model does to its process, it does to the child alone; its author reads one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.catalog import ModelSpec
from worker.checking.child import Outcome, run_child

MODEL = """\
import os


class Model:
    def load(self, spec, device):
        pass

    def decode(self, value, params):
        return value

    def cost(self, item):
        return 1

    def infer(self, items):
        {does}
        return items

    def encode(self, output):
        return output
"""


def check(folder: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> Outcome:
    (folder / "odd.py").write_text(MODEL.format(does=does))
    monkeypatch.setenv("LANEFLEET_CATALOG", str(folder / "models.yaml"))
    spec = ModelSpec(name="odd", handler="odd:Model", input="text", max_batch=2)
    request = {"do": "examine", "spec": spec.model_dump(mode="json"), "device": "cpu"}
    return run_child({**request, "seconds": 0.01, "verb_seconds": 1.0}, silent_seconds=20.0)


@pytest.mark.parametrize(
    ("does", "sentence"),
    [
        ("import time; time.sleep(60)", "infer did not end within 1 s; it hangs there"),
        pytest.param("os._exit(5)", "process, with status 5", marks=pytest.mark.slow),
        ("import ctypes; ctypes.string_at(0)", "infer ended the process, killed by SIGSEGV"),
        pytest.param("os.abort()", "killed by SIGABRT", marks=pytest.mark.slow),
        pytest.param("os.kill(os.getpid(), 9)", "killed by SIGKILL", marks=pytest.mark.slow),
    ],
)
def test_a_model_that_ends_or_holds_its_process(
    does: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = check(tmp_path, monkeypatch, does)
    assert outcome.found is None
    assert sentence in outcome.fault
    assert outcome.fault.startswith(("odd.py:15: ", "odd.py:14: "))
    assert "`infer(items)` returns a list" in outcome.fault


def test_a_model_that_prints_and_forks_passes_and_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = check(tmp_path, monkeypatch, "print('{hello}', flush=True); os.fork()")
    assert outcome.fault == ""
    assert outcome.found is not None
    assert "'{hello}'" in outcome.found["notes"][0]
    assert outcome.notes == ["infer forked the process; a worker ends such copies"]


@pytest.mark.slow
def test_a_model_that_runs_no_python_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = "import ctypes; ctypes.PyDLL(None).sleep(60)"  # with the interpreter's lock
    (tmp_path / "odd.py").write_text(MODEL.format(does=held))
    monkeypatch.setenv("LANEFLEET_CATALOG", str(tmp_path / "models.yaml"))
    spec = ModelSpec(name="odd", handler="odd:Model", input="text")
    request = {"do": "examine", "spec": spec.model_dump(mode="json"), "device": "cpu"}
    outcome = run_child({**request, "seconds": 0.01}, silent_seconds=5.0)
    assert "infer ran no Python code for 5 s" in outcome.fault
