"""`lanefleet prune` on tiny models: what it makes, what it refuses, what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from common.settings import Settings, load_settings
from tests.support.tiny_models import write_shop
from worker.models import load_handler
from worker.tools import prune
from worker.tools.report import Report

for _name in ("torch", "transformers", "tokenizers"):
    pytest.importorskip(_name)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, inputs and a catalog."""
    folder = tmp_path_factory.mktemp("shop")
    weights, texts = str(folder / "bert"), str(folder / "texts.txt")
    judged = {"handler": "minilm", "input": "text", "weights": weights, "samples": texts}
    own = {"handler": "tests.support.exportable:Small", "input": "json"}
    return write_shop(folder, layers=2, judged=judged, own=own)


@pytest.fixture
def settings(shop: Path) -> Settings:
    return load_settings(catalog=shop / "models.yaml")


def pruned(settings: Settings, model: str, target: Path, **more: Any) -> Report:
    given = {"model": model, "target": str(target), "seconds": 0.01, "keep_anyway": True, **more}
    return prune.run(given, settings, lambda *_: None)


def answer(folder: Path, handler: str, value: Any) -> Any:
    kind: Any = "text" if handler == "minilm" else "image"
    spec = ModelSpec(name="pruned", handler=handler, input=kind, weights=str(folder))
    model = load_handler(spec)
    model.load(spec, "cpu")
    (output,) = model.infer([model.decode(value, {})])  # type: ignore[misc]
    return model.encode(output)


def test_heads_and_inner_widths_go_and_the_handler_loads_what_is_left(
    settings: Settings, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    report = pruned(settings, "judged", tmp_path / "small", share=0.5)
    assert report.made == str(tmp_path / "small")
    assert report.samples == 80
    shapes = load_file(tmp_path / "small" / "model.safetensors")
    assert shapes["encoder.layer.0.attention.self.query.weight"].shape == (16, 32)
    assert shapes["encoder.layer.1.output.dense.weight"].shape == (32, 32)
    assert answer(tmp_path / "small", "minilm", "redfox oldsea")["dimensions"] == 32


def test_steps_with_learning_keep_more_than_none(
    settings: Settings, shop: Path, tmp_path: Path
) -> None:
    data = {"data": str(shop / "texts.txt"), "share": 0.5, "tolerance": 0.1, "steps": 2}
    before = pruned(settings, "judged", tmp_path / "bare", share=0.5)
    report = pruned(
        settings, "tiny", tmp_path / "taught", learn_steps=25, learning_rate=1e-3, **data
    )
    assert [row["share"] for row in report.rows] == ["25%", "50%"]
    assert report.agreement is not None
    assert before.agreement is not None
    assert report.agreement > before.agreement
    assert not list(tmp_path.glob(".*.training"))


def test_it_stops_before_the_tolerance_breaks_and_keeps_the_step_before(
    settings: Settings, shop: Path, tmp_path: Path
) -> None:
    data = {"data": str(shop / "texts.txt"), "share": 0.75, "steps": 3, "learn_steps": 2}
    first = pruned(settings, "tiny", tmp_path / "all", tolerance=0.01, **data)
    between = (first.rows[0]["held out"] + first.rows[2]["held out"]) / 2
    report = pruned(settings, "tiny", tmp_path / "some", tolerance=between, **data)
    assert any(note.startswith("stopped before step") for note in report.notes)
    assert report.made
    assert report.agreement is not None
    assert report.agreement >= between


def test_a_tolerance_that_the_first_step_breaks_makes_nothing(
    settings: Settings, shop: Path, tmp_path: Path
) -> None:
    data = {"data": str(shop / "texts.txt"), "tolerance": 1.0, "learn_steps": 2}
    report = pruned(settings, "tiny", tmp_path / "small", **data)
    assert report.made is None
    assert "is below 1.0; more --minutes or --steps" in report.refused[0].why
    assert not (tmp_path / "small").exists()


def test_channels_of_a_resnet_go_and_the_handler_takes_its_shapes(
    settings: Settings, shop: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch_pruning")
    data = {"data": str(shop / "pictures"), "steps": 1, "learn_steps": 2, "tolerance": 0.01}
    report = pruned(settings, "eyes", tmp_path / "small", share=0.5, batch=4, **data)
    assert report.made
    assert report.bytes_after is not None
    assert report.bytes_after < (shop / "resnet" / "model.safetensors").stat().st_size
    picture = (shop / "pictures" / "0.png").read_bytes()
    assert len(answer(tmp_path / "small", "resnet50", picture)["labels"]) == 5


@pytest.mark.slow
@pytest.mark.parametrize(("model", "handler"), [("tiny", "minilm"), ("eyes", "resnet50")])
def test_what_is_left_can_be_exported(
    settings: Settings, tmp_path: Path, model: str, handler: str
) -> None:
    for name in ("torch_pruning", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    from worker.models.exporting import export_to

    pruned(settings, model, tmp_path / "small", share=0.5)
    kind: Any = "text" if handler == "minilm" else "image"
    weights = str(tmp_path / "small")
    spec = ModelSpec(name="pruned", handler=handler, input=kind, weights=weights)
    exported = export_to(tmp_path / "graph", spec)
    assert exported is not None
    assert exported.least_cosine > 0.9999


@pytest.mark.slow
def test_a_network_of_ones_own_handler_becomes_a_smaller_graph(
    settings: Settings, tmp_path: Path
) -> None:
    for name in ("torch_pruning", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    from worker.models.sessions import open_session

    pictures = np.random.default_rng(2).standard_normal((24, 3, 8, 8)).round(3)
    lines = "".join(f"{json.dumps(one.tolist())}\n" for one in pictures)
    (tmp_path / "numbers.jsonl").write_text(lines)
    data = {"data": str(tmp_path / "numbers.jsonl"), "steps": 1, "learn_steps": 2}
    report = pruned(settings, "own", tmp_path / "small", share=0.5, tolerance=0.01, **data)
    assert report.made
    assert report.measure == "top-1"
    session = open_session(tmp_path / "small" / "model.onnx")
    (logits,) = session.run({"pixel_values": pictures[:5].astype(np.float32)})
    assert logits.shape == (5, 3)
    assert report.rows[0]["parameters"] < 500  # of 883


def test_zeros_bring_no_speed_and_are_refused_with_the_figure(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "speed", lambda *_: 1.01)
    asked = {"method": "magnitude", "share": 0.5}
    report = pruned(settings, "judged", tmp_path / "zeros", keep_anyway=False, **asked)
    assert report.made is None
    assert report.refused[0].why.startswith("no speed-up: 1.01x measured here")
    assert not (tmp_path / "zeros").exists()
    kept = pruned(settings, "judged", tmp_path / "zeros", **asked)
    assert kept.made
    assert kept.refused


def test_zeros_stay_zero_while_the_others_learn(
    settings: Settings, shop: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    data = {"data": str(shop / "texts.txt"), "steps": 2, "learn_steps": 2, "tolerance": 0.01}
    pruned(settings, "tiny", tmp_path / "zeros", method="magnitude", share=0.5, **data)
    tensors = load_file(tmp_path / "zeros" / "model.safetensors")
    weight = tensors["encoder.layer.0.intermediate.dense.weight"]
    assert int((weight == 0).sum()) == pytest.approx(weight.numel() / 2, abs=2)


def test_a_run_that_broke_off_goes_on_behind_its_last_step(
    settings: Settings, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"data": str(shop / "texts.txt"), "steps": 3, "learn_steps": 2, "tolerance": 0.01}
    learn, calls = prune.train, []

    def broken_off(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return learn(*args)

    monkeypatch.setattr(prune, "train", broken_off)
    with pytest.raises(KeyboardInterrupt):
        pruned(settings, "tiny", tmp_path / "small", **data)
    assert not (tmp_path / "small").exists()
    report = pruned(settings, "tiny", tmp_path / "small", **data)
    assert "gone on with behind step 2" in report.notes
    assert [row["step"] for row in report.rows] == [1, 2, 3]
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"data": "nowhere"}, "there is no .*nowhere"),
        ({"data": "empty"}, "has no text inputs"),
        ({"model": "echo"}, "echo has no `export`"),
        ({"model": "eyes", "data": "broken"}, "take it out or mend it"),
        ({"share": 1.5}, "between 0 and 1"),
        ({"method": "lottery"}, "choose"),
        ({"target": "."}, "is there already"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    settings: Settings, tmp_path: Path, asked: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    for number in range(4):
        (tmp_path / "broken" / f"{number}.png").write_bytes(b"no picture %d" % number)
    given = {"model": "tiny", "target": "small", **asked}
    if "data" in given:
        given["data"] = str(tmp_path / given["data"])
    with pytest.raises(ConfigurationError, match=sentence):
        pruned(settings, given.pop("model"), tmp_path / given.pop("target"), **given)
    assert not (tmp_path / "small").exists()


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_that_loads(shop: Path, tmp_path: Path) -> None:
    given = {"model": "tiny", "target": str(tmp_path / "small"), "data": str(shop / "texts.txt")}
    given |= {"steps": 50, "minutes": 0.01, "tolerance": 0.01}  # type: ignore[dict-item]
    environment = {**os.environ, "LANEFLEET_CATALOG": str(shop / "models.yaml")}
    command = [sys.executable, "-m", "worker.tools", "prune", json.dumps(given)]
    kept = tmp_path / ".small.training" / "checkpoint.safetensors"
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        deadline = time.monotonic() + 120
        while not kept.exists():
            assert time.monotonic() < deadline
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    assert not (tmp_path / "small").exists()
    assert not list(tmp_path.rglob("model.safetensors"))
