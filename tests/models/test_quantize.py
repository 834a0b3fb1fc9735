"""`lanefleet quantize`: what it makes loads and agrees; what does not agree is not made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.catalog import ModelSpec
from common.errors import FleetError
from common.settings import Settings
from tests.support.stack import DATA, ROOT, wait_until
from worker.models.facts import read_facts
from worker.residency.loading import loader_for
from worker.tools import quantize
from worker.tools.pace import outputs_of

pytest.importorskip("onnxruntime")

CATALOG = """models:
  spiky: {handler: "tests.support.quantizable:Wide", input: text}
  plain: {handler: "tests.support.quantizable:Wide", input: text, options: {plain: true}}
  resnet: {handler: resnet50, input: image, weights: random}
"""


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(CATALOG)
    return path


@pytest.fixture
def start(catalog: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    def run(source: str, **arguments: Any) -> subprocess.Popen[str]:
        given = {
            "source": source,
            "target": str(tmp_path / "made"),
            "samples": str(DATA / "sentences.txt"),
            "backends": ["onnx"],
            **arguments,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "worker.tools", "quantize", json.dumps(given)],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "LANEFLEET_CATALOG": str(catalog),
                "LANEFLEET_STATE_DIR": str(tmp_path / "state"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture
def last_line(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., dict[str, Any]]:
    def run(source: str, **arguments: Any) -> dict[str, Any]:
        out, err = start(source, **arguments).communicate()
        assert out, err
        line: dict[str, Any] = json.loads(out.splitlines()[-1])
        return line

    return run


def left(tmp_path: Path) -> list[str]:
    return sorted(
        one.name for one in tmp_path.iterdir() if one.name not in ("models.yaml", "state")
    )


@pytest.mark.parametrize(
    ("source", "arguments", "says"),
    [
        ("plain", {"samples": None}, "plain has no samples to tune and to judge by"),
        ("plain", {"samples": "few"}, "are too few; give at least 16 of each"),
        ("plain", {"samples": "none"}, "samples: there is no none"),
        ("nothing", {}, "there is no model 'nothing'"),
    ],
)
def test_what_cannot_be_begun_is_refused_in_a_sentence(
    tmp_path: Path, catalog: Path, source: str, arguments: Any, says: str
) -> None:
    if arguments.get("samples") == "few":
        few = tmp_path / "few.txt"
        few.write_text("one\ntwo\nthree\n")
        arguments = {"samples": str(few)}
    given = {"samples": str(DATA / "sentences.txt"), **arguments}
    given |= {"source": source, "target": str(tmp_path / "made")}
    with pytest.raises(FleetError, match=says):
        quantize.run(given, Settings(catalog=catalog), lambda *_: None)
    assert "made" not in left(tmp_path)


@pytest.mark.slow
def test_the_layer_that_does_not_bear_it_stays_in_fp32(
    tmp_path: Path, last_line: Callable[..., dict[str, Any]]
) -> None:
    report = last_line("spiky")["report"]
    assert report["made"] == str(tmp_path / "made"), report
    assert report["agreement"] >= 0.99
    assert report["ratio"] > 1
    assert 0 < report["bytes_after"] < 0.6 * report["bytes_before"]
    [kept] = [one for one in report["notes"] if one.startswith("in fp32")]
    assert "MatMul" in kept
    facts = json.loads((tmp_path / "made" / "lanefleet.json").read_text())
    assert facts["precision"] == "int8"
    assert facts["agreement"] == report["agreement"]
    assert len(facts["fp32_layers"]) == 1
    assert left(tmp_path) == ["made"]

    spec = ModelSpec(
        name="m",
        handler="tests.support.quantizable:Wide",
        input="text",
        weights=str(tmp_path / "made"),
        backend="onnx",
        precision="int8",
    )
    handler = loader_for("cpu", Settings(state_dir=tmp_path / "state"))(spec)
    [output] = outputs_of(handler, [handler.decode("a text", {})])
    assert len(handler.encode(output)["embedding"]) == 768
    assert read_facts(tmp_path / "made") is not None
    assert (
        "is int8 already" in last_line(str(tmp_path / "made"), target=str(tmp_path / "b"))["error"]
    )
    assert "is there already" in last_line("spiky")["error"]


@pytest.mark.slow
def test_a_tolerance_out_of_reach_is_refused_with_figures_and_nothing_made(
    tmp_path: Path, last_line: Callable[..., dict[str, Any]]
) -> None:
    report = last_line("spiky", tolerance=0.9999999)["report"]
    assert report["made"] is None
    assert "lower --tolerance, or keep fp32" in report["refused"][0]["why"]
    assert left(tmp_path) == []


@pytest.mark.slow
def test_killed_half_way_it_leaves_nothing_that_loads(
    tmp_path: Path,
    start: Callable[..., subprocess.Popen[str]],
    last_line: Callable[..., dict[str, Any]],
) -> None:
    program = start("plain")
    wait_until(lambda: list(tmp_path.glob(".made.quantizing/made-*")), 90, "a try")
    program.send_signal(signal.SIGKILL)
    program.communicate()
    assert [one for one in left(tmp_path) if not one.startswith(".")] == []
    assert last_line("plain")["report"]["made"]
    assert left(tmp_path) == ["made"]


@pytest.mark.slow
def test_pictures_are_quantized_by_ranges_of_other_pictures(
    tmp_path: Path, last_line: Callable[..., dict[str, Any]]
) -> None:
    from PIL import Image

    for folder, names in (("tune", ["astronaut.jpg"]), ("judge", ["rocket.jpg", "sign.png"])):
        (tmp_path / folder).mkdir()
        for name in names:
            picture = Image.open(DATA / name).convert("RGB")
            for index in range(16):
                left, top = 20 * (index % 4), 20 * (index // 4)
                crop = picture.crop((left, top, left + 240, top + 240))
                crop.save(tmp_path / folder / f"{name}-{index}.png")
    report = last_line(
        "resnet",
        samples=str(tmp_path / "judge"),
        calibration=str(tmp_path / "tune"),
        tolerance=0.5,  # random weights: which label is first hangs by little
    )["report"]
    assert report["made"], report
    assert (report["measure"], report["samples"]) == ("top-1", 32)
    assert report["bytes_after"] < 0.3 * report["bytes_before"]
    spec = ModelSpec(
        name="m",
        handler="resnet50",
        input="image",
        weights=str(tmp_path / "made"),
        backend="onnx",
        precision="int8",
    )
    handler = loader_for("cpu", Settings(state_dir=tmp_path / "state"))(spec)
    [output] = outputs_of(handler, [handler.decode((DATA / "rocket.jpg").read_bytes(), {})])
    assert handler.encode(output)["labels"]
