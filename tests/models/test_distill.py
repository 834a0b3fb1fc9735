"""`lanefleet distill` on tiny models: what it makes, what it refuses, what a kill leaves."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigurationError
from common.settings import Settings, load_settings
from tests.support.tiny_models import write_shop
from worker.tools.report import Report

for _name in ("torch", "transformers", "tokenizers"):
    pytest.importorskip(_name)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, inputs and a catalog."""
    return write_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def settings(shop: Path) -> Settings:
    return load_settings(catalog=shop / "models.yaml")


def distilled(settings: Settings, model: str, target: Path, data: Path, **more: Any) -> Report:
    from worker.tools import distill

    given = {"model": model, "target": str(target), "data": str(data), "steps": 40, "seconds": 0.01}
    return distill.run({"layers": 2, "tolerance": 0.0, **given, **more}, settings, lambda *_: None)


def loaded(folder: Path, handler: str, kind: str) -> Any:
    from common.catalog import ModelSpec
    from worker.models import load_handler

    spec = ModelSpec(name="student", handler=handler, input=kind, weights=str(folder))  # type: ignore[arg-type]
    model = load_handler(spec)
    model.load(spec, "cpu")
    return model


@pytest.mark.parametrize("loss", ["outputs", "features"])
def test_a_student_of_texts_comes_nearer_to_its_teacher_and_loads(
    settings: Settings, shop: Path, tmp_path: Path, loss: str
) -> None:
    target = tmp_path / "student"
    report = distilled(settings, "tiny", target, shop / "texts.txt", loss=loss, learning_rate=3e-3)
    assert report.made == str(target)
    assert (report.measure, report.tolerance) == ("mean cosine", 0.0)
    began, became = _means(report)
    assert became > began
    assert report.agreement == pytest.approx(became, abs=2e-4)
    student = loaded(target, "minilm", "text")
    (output,) = student.infer([student.decode("redfox oldsea", {})])
    assert len(student.encode(output)["embedding"]) == 32
    assert json.loads((target / "config.json").read_text())["num_hidden_layers"] == 2
    assert (target / "loss.csv").read_text().startswith("step,minutes,loss")
    assert not (tmp_path / ".student.training").exists()


def test_a_narrower_student_has_shorter_vectors(
    settings: Settings, shop: Path, tmp_path: Path
) -> None:
    report = distilled(settings, "tiny", tmp_path / "s", shop / "texts.txt", hidden=16, layers=1)
    began, became = _means(report)
    assert became > began
    student = loaded(tmp_path / "s", "minilm", "text")
    (output,) = student.infer([student.decode("redfox", {})])
    assert student.encode(output)["dimensions"] == 16


def test_a_student_of_pictures_has_its_teachers_labels(
    settings: Settings, shop: Path, tmp_path: Path
) -> None:
    target = tmp_path / "student"
    asked = {"layers": 1, "hidden": 12, "steps": 2, "batch": 4, "loss": "features"}
    report = distilled(settings, "eyes", target, shop / "pictures", **asked)
    assert report.made == str(target)
    assert report.measure == "top-1"
    student = loaded(target, "resnet50", "image")
    picture = (shop / "pictures" / "0.png").read_bytes()
    (output,) = student.infer([student.decode(picture, {})])
    assert {one["label"] for one in student.encode(output)["labels"]} == {
        f"LABEL_{number}" for number in range(5)
    }


def test_a_student_below_the_tolerance_is_not_made_and_its_training_goes_on_later(
    settings: Settings, shop: Path, tmp_path: Path
) -> None:
    target = tmp_path / "student"
    report = distilled(settings, "tiny", target, shop / "texts.txt", tolerance=1.0, steps=3)
    assert report.made is None
    (refused,) = report.refused
    assert "is below 1.0" in refused.why
    assert "goes on" in refused.why
    assert not target.exists()
    again = distilled(settings, "tiny", target, shop / "texts.txt", steps=5)
    assert again.made == str(target)
    assert any("gone on with at step 3" in note for note in again.notes)


def test_a_training_of_other_options_is_not_gone_on_with(
    settings: Settings, shop: Path, tmp_path: Path
) -> None:
    target = tmp_path / "student"
    distilled(settings, "tiny", target, shop / "texts.txt", tolerance=1.0, steps=1)
    with pytest.raises(ConfigurationError, match="other options, data or weights; delete it"):
        distilled(settings, "tiny", target, shop / "texts.txt", layers=1, steps=1)
    kept = tmp_path / ".student.training" / "checkpoint.safetensors"
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(ConfigurationError, match="is damaged"):
        distilled(settings, "tiny", target, shop / "texts.txt", steps=1)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"data": "nowhere"}, "there is no .*nowhere"),
        ({"data": "empty"}, "has no text inputs; put some in it"),
        ({"data": "one.txt"}, "put at least 2 in it"),
        ({"data": "broken.txt"}, "is no UTF-8 text"),
        ({"layers": 9}, "the teacher has 3; ask for fewer"),
        ({"layers": 3}, "as large as its teacher"),
        ({"hidden": 12}, "multiple of 8"),
        ({"hidden": 16, "loss": "features"}, "as wide as its teacher"),
        ({"loss": "labels"}, "choose outputs, features"),
        ({"model": "eyes", "data": "broken"}, "refused: .*take it out or mend it"),
        ({"model": "echo", "data": "values.jsonl"}, "not of echo"),
        ({"target": "bert"}, "is there already"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    settings: Settings, shop: Path, tmp_path: Path, asked: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    for number in range(4):
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken" / f"{number}.png").write_bytes(b"no picture %d" % number)
    (tmp_path / "one.txt").write_text("redfox\n")
    (tmp_path / "broken.txt").write_bytes(b"\xff\xfe\n\xff")
    (tmp_path / "values.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    given = {"model": "tiny", "data": shop / "texts.txt", "target": tmp_path / "student", **asked}
    given["data"] = tmp_path / str(given["data"])
    if given["target"] == "bert":
        given["target"] = shop / "bert"
    with pytest.raises(ConfigurationError, match=sentence):
        distilled(settings, given.pop("model"), given.pop("target"), given.pop("data"), **given)
    assert not (tmp_path / "student").exists()


def test_a_full_disk_leaves_nothing_that_loads(
    settings: Settings, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.tools.training import text_lesson

    def full(path: Path, _tensors: object) -> None:
        path.write_bytes(b"a part of it")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(text_lesson, "kept_tensors", full)
    with pytest.raises(ConfigurationError, match=r"could not be written: No space .*make room"):
        distilled(settings, "tiny", tmp_path / "student", shop / "texts.txt", steps=1)
    assert not list(tmp_path.rglob("model.safetensors"))


def test_steps_are_the_same_whether_or_not_it_was_broken_off(tmp_path: Path) -> None:
    import torch

    from worker.tools.training.checkpoint import Checkpoint
    from worker.tools.training.loop import Judgement, Plan, train

    class Line:
        def __init__(self, most: int = 100) -> None:
            self.network = torch.nn.Linear(1, 1)
            torch.nn.init.zeros_(self.network.weight)
            torch.nn.init.zeros_(self.network.bias)
            self.costs, self.most = [1] * 8, most

        def loss(self, places: Any) -> torch.Tensor:
            self.most -= 1
            if self.most < 0:
                raise KeyboardInterrupt
            inputs = torch.tensor([[float(place)] for place in places])
            found: torch.Tensor = (self.network(inputs) - 2 * inputs).square().mean()
            return found

        def judge(self) -> Judgement:
            return Judgement(-abs(float(self.network.weight.detach()) - 2), 0.0)

    plan = Plan(minutes=1e6, batch=2, steps=8, judge_seconds=0, learning_rate=0.1)
    checkpoint = Checkpoint(tmp_path / "target", "key")
    whole, broken, resumed = Line(), Line(4), Line()
    train(whole, plan, None, lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        train(broken, plan, checkpoint, lambda *_: None)
    outcome = train(resumed, plan, checkpoint, lambda *_: None)
    assert (outcome.resumed_at, outcome.steps) == (4, 8)
    torch.testing.assert_close(resumed.network.weight, whole.network.weight)
    assert float(whole.network.weight.detach()) > 0.01


def test_the_course_is_drawn_where_it_can_be(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from worker.tools.training.curve import draw_curve
    from worker.tools.training.loop import Point

    points = [Point(step, step / 10, 1.0, 0.5, 0.1) for step in range(3)]
    assert draw_curve(points, tmp_path) == ["loss.png", "loss.csv"]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_disk_that_is_full_in_earnest_ends_with_a_sentence(shop: Path, tmp_path: Path) -> None:
    given = {"model": "tiny", "target": str(tmp_path / "student"), "steps": 5}
    given |= {"data": str(shop / "texts.txt"), "layers": 2, "tolerance": 0.0}

    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        [sys.executable, "-m", "worker.tools", "distill", json.dumps(given)],
        env={**os.environ, "LANEFLEET_CATALOG": str(shop / "models.yaml")},
        capture_output=True,
        text=True,
        preexec_fn=no_large_files,
    )
    assert done.returncode == 2
    said = json.loads(done.stdout.splitlines()[-1])["error"]
    assert "could not be written" in said
    assert "make room" in said
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_that_loads_and_is_gone_on_with(
    shop: Path, tmp_path: Path
) -> None:
    target = tmp_path / "student"
    given = {"model": "tiny", "target": str(target), "data": str(shop / "texts.txt"), "layers": 2}
    given |= {"minutes": 600, "judge_seconds": 0.05, "tolerance": 0.0, "patience": 10**6}
    environment = {**os.environ, "LANEFLEET_CATALOG": str(shop / "models.yaml")}
    command = [sys.executable, "-m", "worker.tools", "distill"]
    kept = tmp_path / ".student.training" / "checkpoint.safetensors"
    with subprocess.Popen(
        [*command, json.dumps(given)], env=environment, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        deadline = time.monotonic() + 120
        seen: set[int] = set()
        while len(seen) < 3:  # each checkpoint is a file of its own
            assert time.monotonic() < deadline
            child.stdout.readline()
            if kept.exists():
                seen.add(kept.stat().st_mtime_ns)
        child.send_signal(signal.SIGKILL)
    assert not target.exists()
    assert not list(tmp_path.rglob("model.safetensors"))
    given |= {"steps": 100, "seconds": 0.01}
    done = subprocess.run(
        [*command, json.dumps(given)], env=environment, capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout.splitlines()[-1])["report"]
    assert report["made"] == str(target)
    assert any("gone on with at step" in note for note in report["notes"])


def _means(report: Report) -> tuple[float, float]:
    (said,) = (note for note in report.notes if note.startswith("held-out mean"))
    words = said.replace(",", "").split()
    return float(words[2]), float(words[4])
