"""Sessions: one file on ONNX Runtime and OpenVINO, and what each refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.catalog import ModelSpec
from common.errors import ConfigurationError, InferenceFailed
from tests.models.test_models import need
from tests.support.graphs import twice
from worker.models.facts import Facts, write_facts
from worker.models.sessions import check_ports, open_session, session_for

need("onnx", "onnxruntime", "openvino")

BACKENDS = pytest.mark.parametrize("backend", ["onnx", "openvino"])


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return twice(tmp_path_factory.mktemp("graph") / "model.onnx")


def spec(**keys: Any) -> ModelSpec:
    return ModelSpec.model_validate({"name": "m", "handler": "x:Y", **keys})


@BACKENDS
def test_both_backends_give_the_same_numbers_for_any_batch(graph: Path, backend: str) -> None:
    session = open_session(graph, backend=backend)
    assert session.backend.startswith(f"{backend}:")
    assert [str(port) for port in session.inputs] == ["numbers (float32, any x 3)"]
    for count in (1, 4):
        numbers = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
        np.testing.assert_array_equal(session.run({"numbers": numbers})[0], 2 * numbers)


@BACKENDS
def test_a_file_that_is_no_onnx_is_named_with_a_remedy(tmp_path: Path, backend: str) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"no graph at all" * 10)
    with pytest.raises(ConfigurationError, match=r"cannot open .*model\.onnx .*lanefleet export"):
        open_session(broken, backend=backend)
    with pytest.raises(ConfigurationError, match=r"there is no file .*lost\.onnx"):
        open_session(tmp_path / "lost.onnx", backend=backend)


@BACKENDS
def test_wrong_inputs_say_what_came_and_what_the_file_takes(graph: Path, backend: str) -> None:
    session = open_session(graph, backend=backend)
    with pytest.raises(InferenceFailed, match=r"takes numbers \(float32, any x 3\); it got"):
        session.run({"numbers": np.zeros((2, 5), np.float32)})
    with pytest.raises(InferenceFailed, match=r"it got others float32 \[2, 3\]"):
        session.run({"others": np.zeros((2, 3), np.float32)})


def test_ports_that_are_not_the_catalogs_are_refused_with_both_names(graph: Path) -> None:
    session = open_session(graph)
    check_ports("m", graph, session, ["numbers"], ["doubled"])
    with pytest.raises(ConfigurationError, match=r"inputs numbers .*catalog's are pixels"):
        check_ports("m", graph, session, ["pixels"], ["doubled"])
    with pytest.raises(ConfigurationError, match=r"outputs doubled .*catalog's are logits"):
        check_ports("m", graph, session, ["numbers"], ["logits"])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"precision": "int8"}, "int8 needs weights that were quantized"),
        ({"precision": "bf16"}, "backend onnx runs fp32 and int8, not bf16; set backend: torch"),
        ({"precision": "fp16", "backend": "openvino"}, "backend openvino runs fp32 and int8"),
        ({"providers": ["tensorrt"]}, "tensorrt is not in this ONNX Runtime, which has"),
        ({"providers": ["cpu"], "backend": "openvino"}, "cpu are ONNX Runtime's"),
        ({"backend": "torch"}, "backend 'torch' does not run"),
    ],
)
def test_what_a_session_cannot_be_is_refused(graph: Path, keys: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        session_for(spec(**keys), graph, "cpu")


def test_the_precision_is_that_of_the_file(tmp_path: Path) -> None:
    file = twice(tmp_path / "model.onnx")
    write_facts(tmp_path, Facts("minilm", "onnx", "int8", "abc"))
    session_for(spec(precision="int8"), file, "cpu")
    with pytest.raises(ConfigurationError, match="was quantized; say `precision: int8`"):
        session_for(spec(), file, "cpu")
    (tmp_path / "lanefleet.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"lanefleet\.json is not what .* writes"):
        session_for(spec(), file, "cpu")
