"""The handler `onnx`: files of any task, described by the catalog."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.catalog import ModelSpec
from common.errors import ConfigurationError, InvalidInput
from tests.models.test_models import alone, loaded, need, results
from tests.support.graphs import node, write_graph
from tests.support.tiny_bert import WORDS, write_bert

need("onnx", "onnxruntime", "openvino", "tokenizers", "PIL", "torch")

QUICK = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
BATCH_OF_PICTURES = ("FLOAT", ("batch", 3, 8, 8))
TEXT_INPUTS = dict.fromkeys(("input_ids", "attention_mask"), ("INT64", ("b", "l")))


def spec(weights: Path, **keys: Any) -> ModelSpec:
    known = {"name": "graph", "handler": "onnx", "weights": str(weights)}
    return ModelSpec.model_validate({**known, **keys})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """classifier.onnx, words.onnx, arrays.onnx and one.onnx, with a tokenizer and labels."""
    made = write_bert(tmp_path_factory.mktemp("graphs") / "files")
    (made / "labels.txt").write_text("red\ngreen\nblue\n")
    write_graph(
        made / "classifier.onnx",
        [node("ReduceMean", ["pixel_values"], ["logits"], axes=[2, 3], keepdims=0)],
        {"pixel_values": BATCH_OF_PICTURES},
        {"logits": ("FLOAT", ("batch", 3))},
    )
    # A token's vector is its row of the table, where the mask keeps it.
    write_graph(
        made / "words.onnx",
        [
            node("Gather", ["table", "input_ids"], ["looked_up"]),
            node("Cast", ["attention_mask"], ["kept"], to=1),
            node("Unsqueeze", ["kept", "last"], ["kept_wide"]),
            node("Mul", ["looked_up", "kept_wide"], ["states"]),
        ],
        TEXT_INPUTS,
        {"states": ("FLOAT", ("b", "l", 4))},
        {
            "table": np.random.default_rng(3).standard_normal((16, 4)).astype(np.float32),
            "last": np.array([2]),
        },
    )
    write_graph(
        made / "arrays.onnx",
        [
            node("Cast", ["counts"], ["as_numbers"], to=1),
            node("Add", ["values", "as_numbers"], ["sum"]),
            node("Mul", ["values", "as_numbers"], ["product"]),
        ],
        {"values": ("FLOAT", ("b", "n")), "counts": ("INT64", ("b", "n"))},
        {"sum": ("FLOAT", ("b", "n")), "product": ("FLOAT", ("b", "n"))},
    )
    for batch in (1, 4):
        write_graph(
            made / f"of_{batch}.onnx",
            [node("Neg", ["x"], ["y"])],
            {"x": ("FLOAT", (batch, 2))},
            {"y": ("FLOAT", (batch, 2))},
        )
    return made


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (20, 12)) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("image", "best"),
    [
        ({"size": 8}, "blue"),
        ({"size": [8, 8], "channels": "bgr", "mean": [0, 0, 0], "std": [1, 1, 1]}, "red"),
        ({"size": 8, "shorter_side": 10}, "blue"),
    ],
)
def test_pictures_are_classified_as_the_catalog_says(
    folder: Path, backend: str, image: Any, best: str
) -> None:
    result = {"kind": "labels", "labels": "labels.txt", "top_k": 2}
    options = {"image": image, "result": result}
    model = loaded(
        spec(folder / "classifier.onnx", input="image", backend=backend, options=options)
    )
    pictures = [picture((10, 20, 200)), picture((0, 0, 255), (9, 30)), model.example()]  # type: ignore[attr-defined]  # optional verb
    found = results(model, pictures)
    assert [one["label"] for one in found[0]["labels"]][:1] == [best]
    assert [len(one["labels"]) for one in found] == [2, 2, 2]
    assert alone(model, pictures) == found
    assert len(results(model, pictures[:1], {"top_k": 3})[0]["labels"]) == 3
    with pytest.raises(InvalidInput, match="top_k"):
        model.decode(pictures[0], {"top_k": 0})


@pytest.fixture(scope="module")
def words(folder: Path) -> dict[str, Any]:
    kinds: dict[str, Any] = {
        "embedding": {"kind": "embedding", "pool": "mean"},
        "raw": {"kind": "raw"},
    }
    return {
        kind: loaded(spec(folder / "words.onnx", input="text", options={"result": result}))
        for kind, result in kinds.items()
    }


@QUICK
@given(
    texts=st.lists(
        st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join), min_size=1, max_size=5
    )
)
def test_texts_give_the_same_alone_and_in_a_batch(words: dict[str, Any], texts: list[str]) -> None:
    for model in words.values():
        assert alone(model, texts) == results(model, texts)
    for one, raw in zip(*(results(words[kind], texts) for kind in words), strict=True):
        assert len(raw["states"]) == one["tokens"]
        assert np.linalg.norm(one["embedding"]) == pytest.approx(1, abs=1e-6)


@QUICK
@given(rows=st.lists(st.lists(st.integers(-9, 9), max_size=5), min_size=1, max_size=5))
def test_arrays_of_any_length_go_through_together(arrays: Any, rows: list[list[int]]) -> None:
    jobs = [{"values": row, "counts": row} for row in rows]
    assert results(arrays, jobs) == [
        {"sum": [2 * one for one in row], "product": [one * one for one in row]} for row in rows
    ]


@pytest.fixture(scope="module")
def arrays(folder: Path) -> Any:
    return loaded(spec(folder / "arrays.onnx"))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1], "expected an object of the arrays values"),
        ({"values": [1]}, "expected an object of the arrays values"),
        ({"values": [[1]], "counts": [1]}, "takes any a job, not 1 x 1"),
        ({"values": [[1], [1, 2]], "counts": [1]}, "lists are of unlike lengths"),
        ({"values": ["1"], "counts": [1]}, "numbers only"),
        ({"values": [1], "counts": [1.5]}, "counts has a number that is none of int64"),
        ({"values": [1e300], "counts": [1]}, "values has a number that is none of float32"),
        ({"values": [1], "counts": [10**30]}, "numbers only"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays: Any, value: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        arrays.decode(value, {})


def test_a_file_of_a_fixed_batch_of_one_runs_one_at_a_time(folder: Path) -> None:
    model = loaded(spec(folder / "of_1.onnx"))
    assert results(model, [{"x": [1, 2]}, {"x": [3, 4]}]) == [{"y": [-1, -2]}, {"y": [-3, -4]}]
    assert model.backend == "onnx:CPUExecutionProvider"  # type: ignore[attr-defined]  # of this handler
    with pytest.raises(ConfigurationError, match="takes batches of 4 only"):
        loaded(spec(folder / "of_4.onnx"))


@pytest.mark.parametrize(
    ("file", "keys", "said"),
    [
        ("classifier", {"input": "text"}, r"inputs pixel_values .* are input_ids, attention_mask"),
        ("words", {"input": "image"}, r"inputs input_ids .* catalog's are pixel_values"),
        ("arrays", {"options": {"inputs": ["a"]}}, r"inputs values .* catalog's are a; name"),
        ("arrays", {"options": {"outputs": ["logits"]}}, r"outputs sum .* catalog's are logits"),
        ("arrays", {"options": {"result": {"kind": "labels"}}}, "result.output: name one of sum"),
        ("arrays", {"options": {"colour": 1}}, "options.colour: Extra inputs"),
        ("arrays", {"options": {"image": {"size": 8}}}, "for `input: image`, and this model's"),
        (
            "classifier",
            {"input": "image", "options": {"image": {"size": 9, "shorter_side": 8}}},
            "with `shorter_side`, `size` is one side",
        ),
        (
            "classifier",
            {"input": "image", "options": {"result": {"kind": "labels", "labels": "none.txt"}}},
            r"result\.labels: .*none\.txt must have a label a line",
        ),
        (
            "words",
            {"input": "text", "options": {"text": {"tokenizer": "labels.txt"}}},
            r"labels\.txt must be a tokenizer\.json",
        ),
    ],
)
def test_a_file_that_is_not_as_the_catalog_says_is_refused(
    folder: Path, file: str, keys: Any, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        loaded(spec(folder / f"{file}.onnx", **keys))
