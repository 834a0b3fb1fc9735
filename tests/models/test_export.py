"""Exports: the same numbers come out, and the folder is there whole or not at all."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from api.cli.main import app
from common.catalog import ModelSpec
from common.errors import ConfigurationError
from tests.models.test_models import need
from tests.support.exportable import SIDE, Small
from tests.support.stack import ROOT
from worker.models.exporting import export_to
from worker.models.facts import read_facts
from worker.models.sessions import open_session

need("torch", "onnx", "onnxscript", "onnxruntime")

SMALL = "tests.support.exportable:Small"


def spec(handler: str = SMALL, **changes: Any) -> ModelSpec:
    return ModelSpec.model_validate({"name": "small", "handler": handler, **changes})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("export") / "small"
    found = export_to(target, spec())
    assert found is not None
    assert found.least_cosine > 0.9999
    return target


@contextmanager
def most_bytes_a_file(size: int) -> Iterator[None]:
    """What a full disk does: a write beyond this fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_graph_takes_any_batch_and_says_how_it_was_made(exported: Path) -> None:
    small = Small()
    small.load(spec(), "cpu")
    session = open_session(exported / "model.onnx")
    for count in (1, 3, 7):
        batch = np.random.default_rng(count).standard_normal((count, 3, SIDE, SIDE), np.float32)
        np.testing.assert_allclose(
            session.run({"pixel_values": batch})[0], small.infer(list(batch)), atol=1e-5
        )
    facts = read_facts(exported)
    assert facts is not None
    assert (facts.handler, facts.backend, facts.precision) == (SMALL, "onnx", "fp32")
    assert (facts.inputs, facts.outputs) == (("pixel_values",), ("logits",))
    assert json.loads((exported / "labels.json").read_text()) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        ("echo", "echo cannot be exported: it has no `export`"),
        ("tests.support.exportable:Branching", "torch cannot export its network"),
        pytest.param(
            "tests.support.exportable:Wrong", "results are not torch's", marks=pytest.mark.slow
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    tmp_path: Path, handler: str, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as refusal:
        export_to(tmp_path / "made", spec(handler))
    assert "\n" not in str(refusal.value)
    assert [*tmp_path.iterdir()] == []


def test_a_full_disk_leaves_nothing_with_a_final_name(tmp_path: Path) -> None:
    with most_bytes_a_file(1000), pytest.raises(ConfigurationError, match="too large; make room"):
        export_to(tmp_path / "made", spec())
    assert [*tmp_path.iterdir()] == []


def test_a_target_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="written: File exists; name another"):
        export_to(tmp_path / "file" / "made", spec())


def test_the_command_wants_a_model_or_a_handler_and_a_new_folder(tmp_path: Path) -> None:
    run = CliRunner().invoke
    for arguments, said in (
        (["minilm"], "name a model and the folder"),
        (["--handler", "nothing", str(tmp_path / "a")], "neither built in"),
        (["minilm", str(tmp_path)], "is there already"),
    ):
        found = run(app, ["export", *arguments])
        assert isinstance(found.exception, ConfigurationError)
        assert said in str(found.exception)


@pytest.mark.slow
def test_an_export_that_is_killed_leaves_nothing_that_loads(tmp_path: Path) -> None:
    arguments = json.dumps(
        {"spec": {"name": "one", "handler": SMALL}, "target": str(tmp_path / "made")}
    )
    program = (sys.executable, "-m", "worker.tools", "export", arguments)
    for wait in (0.0, 0.5, 1.5):
        with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.DEVNULL) as child:
            deadline = time.monotonic() + 60
            while not (tmp_path / ".made.partial").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(wait)
            child.send_signal(signal.SIGKILL)
        assert not (tmp_path / "made").exists()
    subprocess.run(program, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert {one.name for one in tmp_path.iterdir()} == {"made"}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["minilm", "resnet50"])
def test_the_models_in_the_box_can_be_exported(tmp_path: Path, model: str) -> None:
    found = CliRunner().invoke(app, ["export", model, str(tmp_path / model), "--json"])
    assert found.exception is None
    facts = read_facts(tmp_path / model)
    assert facts is not None
    assert facts.handler == model
