"""Object detection: boxes where they must be, alone as in company, and refusals."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.inference.views import DetectItem
from common.catalog import ModelSpec
from common.errors import ConfigurationError, InvalidInput
from tests.models.test_models import encoded, need
from tests.support.tiny_detectors import MAKERS, only_box, write_detector
from worker.models.boxes import Found, overlaps, suppress
from worker.models.object_detect import ObjectDetect

need("torch", "transformers", "safetensors", "PIL")
CANVAS = [96, 128]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def detector(folder: Path, **options: Any) -> ObjectDetect:
    made = ObjectDetect()
    options = {"canvas": CANVAS, "threshold": 0.0, **options}
    spec = ModelSpec(
        name="d",
        handler="object-detect",
        input="image",
        task="detect",
        weights=str(folder),
        options=options,
    )
    made.load(spec, "cpu")
    return made


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ObjectDetect]:
    home = tmp_path_factory.mktemp("detectors")
    return {family: detector(write_detector(family, home / family)) for family in MAKERS}


def noise(width: int, height: int, seed: int = 1) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return encoded(Image.fromarray(pixels))


@pytest.mark.parametrize("family", list(MAKERS))
@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sizes=st.lists(st.tuples(st.integers(8, 300), st.integers(8, 300)), min_size=2, max_size=4))
def test_a_picture_gets_the_same_alone_and_in_company(
    detectors: dict[str, ObjectDetect], family: str, sizes: list[tuple[int, int]]
) -> None:
    model = detectors[family]
    items = [model.decode(noise(*size, seed), {}) for seed, size in enumerate(sizes)]
    for item, seen in zip(items, model.infer(items), strict=True):  # type: ignore[arg-type]
        (alone,) = model.infer([item])  # type: ignore[misc]
        assert np.abs(alone.scores - seen.scores).max() < 1e-5
        assert np.abs(alone.centres - seen.centres).max() < 1e-5


@pytest.mark.parametrize("family", list(MAKERS))
def test_results_are_as_the_route_describes_them(
    detectors: dict[str, ObjectDetect], family: str
) -> None:
    model = detectors[family]
    (seen,) = model.infer([model.decode(noise(200, 100), {"max_boxes": 3})])  # type: ignore[misc]
    found = model.encode(seen)
    assert (found["width"], found["height"], len(found["boxes"])) == (200, 100, 3)
    assert found.keys() - {"weights"} <= DetectItem.model_fields.keys()
    for one in found["boxes"]:
        left, top, right, bottom = one["box"]
        assert 0 <= left <= right <= 200
        assert 0 <= top <= bottom <= 100
    scores = [one["score"] for one in found["boxes"]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("family", ["yolos", "detr"])
def test_a_box_lies_where_it_is_on_the_upright_picture(
    tmp_path: Path, family: str, turned: bool
) -> None:
    from PIL import Image

    # The picture is 200 x 100: on the canvas of 128 x 96 it is shown as 128 x 64.
    share = 64 / 96 if family == "yolos" else 1.0
    place = (0.25, 0.5 * share, 0.2, 0.4 * share)
    folder = write_detector(family, tmp_path / "w", lambda network: only_box(network, place))
    model = detector(folder, iou=0.5)
    image = Image.new("RGB", (100, 200) if turned else (200, 100), "white")
    packed = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    image.save(packed, "JPEG", exif=exif)
    (seen,) = model.infer([model.decode(packed.getvalue(), {"threshold": 0.9})])  # type: ignore[misc]
    found = model.encode(seen)
    assert (found["width"], found["height"]) == (200, 100)
    (box,) = found["boxes"]  # all queries say the same, and one is answered
    assert box["box"] == pytest.approx([30, 30, 70, 70], abs=0.6)
    assert box["label"] == "LABEL_2"

    drawn = Image.new("RGB", (200, 100), "white")
    from PIL import ImageDraw

    ImageDraw.Draw(drawn).rectangle(box["box"], outline="red", width=2)
    drawn.save(tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as shown:
        assert shown.getpixel((31, 50)) == (255, 0, 0)
        assert shown.getpixel((50, 50)) == (255, 255, 255)


def test_overlapping_boxes_of_one_label_are_one() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    labels, scores = np.array([1, 1, 2, 1]), np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    kept = suppress(Found(boxes, labels, scores), 0.5, 10)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert overlaps(boxes)[0, 1] == pytest.approx(81 / 119)
    assert overlaps(np.zeros((2, 4), np.float32)).tolist() == [[0, 0], [0, 0]]


def test_bad_weights_are_refused_with_file_and_remedy(tmp_path: Path) -> None:
    other = tmp_path / "bert"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        ConfigurationError, match=r"bert holds a bert model; this handler runs detr"
    ):
        detector(other)
    (other / "config.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"config\.json cannot be read"):
        detector(other)
    folder = write_detector("yolos", tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match=r"must hold config\.json and model\.safetensors"):
        detector(folder)
    whole = write_detector("yolos", tmp_path / "whole")
    with pytest.raises(ConfigurationError, match=r"options\.canvas must be \[height, width\]"):
        detector(whole, canvas=[0, 4])


def test_wrong_params_are_refused(detectors: dict[str, ObjectDetect]) -> None:
    for params in ({"iou": 2}, {"max_boxes": 0}, {"thresh": 1}, {"threshold": "high"}):
        with pytest.raises(InvalidInput):
            detectors["yolos"].decode(noise(9, 9), params)


def test_random_weights_say_so() -> None:
    made = ObjectDetect()
    made.load(ModelSpec(name="d", handler="object-detect", input="image", weights="random"), "cpu")
    (seen,) = made.infer([made.decode(made.example(), {})])  # type: ignore[misc]
    assert made.encode(seen)["weights"] == "random"
