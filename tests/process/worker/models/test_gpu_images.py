"""Pictures on the device, computed on the CPU here and compared with Pillow's and numpy's."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from common.catalog import ModelSpec  # noqa: E402
from common.errors import InvalidInput  # noqa: E402
from tests.support.stack import ROOT  # noqa: E402
from worker.models import resnet50  # noqa: E402
from worker.models.gpu_images import (  # noqa: E402
    crop_on_device,
    normalise_on_device,
    open_batch_decoder,
)
from worker.models.images import centre_crop, decode_rgb, normalise  # noqa: E402
from worker.models.picture_classifier import Framing  # noqa: E402

FRAMING = Framing()
PHOTO = (ROOT / "deploy" / "demo" / "rocket.jpg").read_bytes()


def test_a_crop_on_the_device_is_pillows() -> None:
    picture = decode_rgb(PHOTO)
    ours = crop_on_device(torch.from_numpy(picture.copy()), shorter_side=256, crop=224).numpy()
    pillows = centre_crop(Image.fromarray(picture), shorter_side=256, crop=224)
    assert ours.shape == pillows.shape == (224, 224, 3)
    assert np.abs(ours - pillows).mean() < 1.5, "of 255; the box is cut at whole pixels"


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (256, 256)])
def test_a_crop_of_any_shape_is_square(size: tuple[int, int]) -> None:
    picture = torch.zeros(*size, 3, dtype=torch.uint8)
    assert crop_on_device(picture, shorter_side=256, crop=224).shape == (224, 224, 3)


def test_normalising_on_the_device_is_numpys() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    ours = normalise_on_device(torch.from_numpy(pixels), FRAMING.mean, FRAMING.std)
    theirs = np.stack([normalise(one, FRAMING.mean, FRAMING.std) for one in pixels])
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_without_a_gpu_there_is_no_decoder_and_pillow_decodes() -> None:
    assert open_batch_decoder("cpu") is None


def test_without_the_package_there_is_no_decoder_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nvidia", None)
    assert open_batch_decoder("cuda:0") is None


class _OnOurCpu(resnet50.ResNet50):
    """The GPU's way through the handler, computed here."""

    @property
    def _on_gpu(self) -> bool:
        return True


def jpeg(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (320, 240), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 300), colour).save(buffer, "PNG")
    return buffer.getvalue()


def refusing(refused: set[bytes]) -> Any:
    """A batch decoder that refuses some."""

    def decode(contents: Sequence[bytes]) -> list[Any]:
        return [
            None if one in refused else torch.from_numpy(decode_rgb(one).copy()) for one in contents
        ]

    return decode


@pytest.fixture(scope="module")
def model() -> Any:
    handler = _OnOurCpu()
    handler.load(ModelSpec(name="resnet50", handler="resnet50", weights="random"), "cpu")
    return handler


def test_labels_are_the_same_whoever_decodes_normalises_and_crops(model: Any) -> None:
    plain = resnet50.ResNet50()
    plain.__dict__.update(model.__dict__)
    inputs = [PHOTO, jpeg((200, 30, 40)), png((10, 200, 30)), jpeg((20, 30, 220))]
    expected = plain.infer([plain.decode(one, {}) for one in inputs])
    bytes_sent = [model.decode(one, {}) for one in inputs]
    assert {item.planes.dtype.name for item in bytes_sent} == {"uint8"}, "a quarter of the copy"
    model._decode_batch = refusing({inputs[3]})
    try:
        coded = [model.decode(one, {}) for one in inputs]
        assert [item.planes is None for item in coded] == [True, True, False, True]
        # Decoded at full size instead of a JPEG's eighths, and cut at whole pixels.
        for items, tolerance in ((bytes_sent, 1e-3), (coded, 2e-2)):
            found = model.infer(items)
            for one, other in zip(found, expected, strict=True):
                assert np.abs(one.probabilities - other.probabilities).max() < tolerance
    finally:
        model._decode_batch = None


def test_a_broken_jpeg_that_the_device_refuses_is_the_clients_error(model: Any) -> None:
    broken = PHOTO[: len(PHOTO) // 2]
    model._decode_batch = refusing({broken})
    try:
        item = model.decode(broken, {})
        with pytest.raises(InvalidInput, match="truncated or corrupt"):
            model.infer([item])
    finally:
        model._decode_batch = None
