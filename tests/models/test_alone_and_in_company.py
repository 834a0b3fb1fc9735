"""Every handler in the box gives an input the same result alone and in any batch.

`CASES` names the test of each, on random inputs of mixed sizes; a new handler without one fails.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.catalog import BUILTIN_HANDLERS, ModelSpec
from tests.models.test_models import PICTURES, encoded, loaded, need, picture, results, spec_of

HERE = Path(__file__)
CASES = {
    "echo": f"{HERE.stem}::test_echo_answers_alike_alone_and_in_company",
    "minilm": "test_backends::test_every_backend_embeds_alike_alone_and_in_a_batch",
    "text-detect": f"{HERE.stem}::test_pictures_of_any_size_get_the_same_alone_and_in_company",
    "resnet50": f"{HERE.stem}::test_pictures_of_any_size_get_the_same_alone_and_in_company",
    "classify": "test_classify::test_a_picture_gets_the_same_alone_and_in_company",
    "vad": "test_vad::test_a_recording_gets_the_same_alone_and_in_company",
    "object-detect": "test_object_detect::test_a_picture_gets_the_same_alone_and_in_company",
    "onnx": "test_onnx_handler::test_texts_give_the_same_alone_and_in_a_batch",
    "triton": f"{HERE.stem}::test_triton_answers_alike_alone_and_in_company",
    "decoder": "test_generation::test_exact_rows_have_the_same_bits_alone_and_in_company",
}
BATCHED_ELSEWHERE = {"openai-server"}
"""Its server forms the batches; a job is a request of its own."""
SIZES = st.lists(st.tuples(st.integers(8, 500), st.integers(8, 500)), min_size=1, max_size=2)


@pytest.mark.parametrize("handler", sorted(BUILTIN_HANDLERS))
def test_every_handler_has_a_test_on_random_inputs(handler: str) -> None:
    if handler in BATCHED_ELSEWHERE:
        return
    assert handler in CASES, "add its test on random inputs of mixed sizes, alone and in company"
    module, _, name = CASES[handler].partition("::")
    tree = ast.parse(HERE.with_name(f"{module}.py").read_text(encoding="utf-8"))
    (test,) = (one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == name)
    assert any("given(" in ast.unparse(one) for one in test.decorator_list)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers() | st.text("ab\u00fc", max_size=9), min_size=1, max_size=5))
def test_echo_answers_alike_alone_and_in_company(values: list[Any]) -> None:
    echo = loaded(spec_of("echo"))
    values = [value if isinstance(value, str) else value % 2**60 for value in values]
    assert results(echo, values) == [results(echo, [value])[0] for value in values]


def noise(width: int, height: int, seed: int) -> bytes:
    """Coarse patches, in which a detector finds something to be unsure about."""
    import numpy as np
    from PIL import Image

    patches = np.random.default_rng(seed).integers(0, 255, (5, 7, 3), np.uint8)
    return encoded(Image.fromarray(patches).resize((width, height)))


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """Those that were loaded so far."""
    need("torch", "transformers", "onnxruntime", "PIL", "cv2", "rapidocr_onnxruntime")
    return {}


@pytest.mark.parametrize("name", ["text-detect", pytest.param("resnet50", marks=pytest.mark.slow)])
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(sizes=SIZES)
def test_pictures_of_any_size_get_the_same_alone_and_in_company(
    models: dict[str, Any], name: str, sizes: list[tuple[int, int]]
) -> None:
    import numpy as np

    if name not in models:
        models[name] = loaded(spec_of(name))
    model = models[name]
    values = [picture(PICTURES[0]), *(noise(*size, seed) for seed, size in enumerate(sizes))]
    items = [model.decode(value, {}) for value in values]
    together = model.infer(items)
    for item, seen in zip(items, together, strict=True):
        (alone,) = model.infer([item])
        one, other = (numbers(output) for output in (alone, seen))
        assert [part.shape for part in one] == [part.shape for part in other]
        assert all(np.abs(a - b).max() < 1e-3 for a, b in zip(one, other, strict=True))


def numbers(output: Any) -> list[Any]:
    """What the network said: a map a tile, or the probabilities."""
    return [output.probabilities] if hasattr(output, "probabilities") else list(output.tiles)


@pytest.fixture(scope="module")
def triton() -> Iterator[Any]:
    need("tritonclient", "grpc")
    from tests.support.kserve import KServe
    from worker.models.triton.handler import Triton

    server, model = KServe(max_batch=3), Triton()
    options = {"url": [server.url], "model": "double"}
    model.load(ModelSpec(name="t", handler="triton", options=options), "cpu")
    yield model
    model.unload()
    server.stop()


@settings(max_examples=10, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=6), min_size=1, max_size=9))
def test_triton_answers_alike_alone_and_in_company(triton: Any, rows: list[list[int]]) -> None:
    def answers(*values: Any) -> list[Any]:
        items = [triton.decode(value, {}) for value in values]
        return [triton.encode(output) for output in triton.infer(items).wait()]

    batch = answers(*rows)
    assert batch == [answers(row)[0] for row in rows]
    assert batch == [{"Y": [2.0 * one for one in row]} for row in rows]
