"""One model on torch, ONNX Runtime and OpenVINO by one word of the catalog."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from tests.models.test_models import alone, loaded, need, results, spec_of
from tests.support.tiny_bert import WORDS, write_bert
from worker.models import weights
from worker.models.agreement import agreement_of
from worker.models.embedding_session import runs_of
from worker.models.exporting import export_to
from worker.models.ready_graph import ready_graph

need("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "tokenizers", "safetensors")

BACKENDS = ("torch", "onnx", "openvino")
SENTENCES = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)
TEXTS = st.lists(SENTENCES, min_size=1, max_size=6)


def spec(folder: Path, **keys: Any) -> ModelSpec:
    known = {"name": "tiny", "handler": "minilm", "input": "text", "weights": str(folder)}
    return ModelSpec.model_validate({**known, **keys})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert") / "tiny")


@pytest.fixture(scope="module")
def graph(source: Path) -> Path:
    target = source.parent / "graph"
    assert export_to(target, spec(source)) is not None
    return target


@pytest.fixture(scope="module")
def tiny(source: Path, graph: Path) -> dict[str, Any]:
    return {
        backend: loaded(spec(source if backend == "torch" else graph, backend=backend))
        for backend in BACKENDS
    }


@pytest.fixture
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(weights, "_converted", tmp_path / "converted")
    return tmp_path / "converted"


@settings(max_examples=15, deadline=None)
@given(texts=TEXTS)
def test_every_backend_embeds_alike_alone_and_in_a_batch(
    tiny: dict[str, Any], texts: list[str]
) -> None:
    expected = results(tiny["torch"], texts)
    for model in tiny.values():
        together = results(model, texts)
        assert agreement_of(expected, together).value > 0.99999
        assert agreement_of(alone(model, texts), together).value > 0.99999
        assert [one["tokens"] for one in together] == [one["tokens"] for one in expected]


@given(lengths=st.lists(st.integers(2, 256), min_size=1, max_size=64).map(sorted))
def test_runs_cover_a_batch_in_order_with_little_padding(lengths: list[int]) -> None:
    runs = list(runs_of(lengths))
    assert [one for first, end in runs for one in range(first, end)] == [*range(len(lengths))]
    for first, end in runs:
        tokens, longest = sum(lengths[first:end]), lengths[end - 1]
        assert (end - first) * longest <= 1.1 * tokens + 32


def test_precisions_that_a_backend_has_not_are_refused(source: Path, graph: Path) -> None:
    for folder, keys, said in (
        (source, {"precision": "int8"}, "int8 does not run on torch here; set backend"),
        (source, {"precision": "int8", "backend": "onnx"}, "needs weights that were quantized"),
        (source, {"precision": "bf16", "backend": "openvino"}, "fp32 and int8, not bf16"),
        (source, {"providers": ["cpu"]}, "they are ONNX Runtime's; set backend: onnx"),
        (graph, {"precision": "int8", "backend": "onnx"}, "needs weights that were quantized"),
        (graph, {}, "has no model.safetensors; set backend: onnx or openvino"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            loaded(spec(folder, **keys))


def test_a_graph_of_another_kind_is_refused_with_both_names(graph: Path, tmp_path: Path) -> None:
    shutil.copytree(graph, tmp_path / "graph")
    (tmp_path / "graph" / "config.json").write_text('{"id2label": {"0": "cat"}}')
    wrong = spec(tmp_path / "graph", handler="resnet50", input="image", backend="onnx")
    with pytest.raises(ConfigurationError, match=r"inputs input_ids .* catalog's are pixel_values"):
        loaded(wrong)


@pytest.mark.slow
def test_weights_of_torch_are_exported_once(source: Path, state_folder: Path) -> None:
    first = ready_graph(spec(source, backend="onnx"))
    assert first.parent.parent == state_folder
    made = first.stat().st_mtime_ns
    assert ready_graph(spec(source, backend="openvino")) == first
    assert first.stat().st_mtime_ns == made
    texts = ["the cat sat", "dogs"]
    model = loaded(spec(source, backend="onnx"))
    assert agreement_of(results(loaded(spec(source)), texts), results(model, texts)).value > 0.99999


@pytest.mark.slow
def test_an_export_that_fails_is_one_sentence(source: Path, tmp_path: Path) -> None:
    weights.set_base(Path(), tmp_path / "file" / "converted")
    (tmp_path / "file").touch()
    try:
        with pytest.raises(ConfigurationError, match=r"could not be exported for backend onnx: .*"):
            ready_graph(spec(source, backend="onnx"))
    finally:
        weights.set_base(Path())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_resnet_gives_the_same_labels(state_folder: Path, backend: str) -> None:
    need("PIL", "transformers")
    plain, other = loaded(spec_of("resnet50")), loaded(spec_of("resnet50", backend=backend))
    noise = np.random.default_rng(1).integers(0, 255, (90, 70, 3), np.uint8)
    from PIL import Image

    from tests.models.test_models import encoded

    pictures = [plain.example(), encoded(Image.fromarray(noise))]  # type: ignore[attr-defined]  # optional verb
    expected, found = results(plain, pictures), results(other, pictures)
    assert agreement_of(expected, found).value == 1
    assert alone(other, pictures) == found
