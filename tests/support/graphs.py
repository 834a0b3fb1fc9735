"""Small ONNX files, made with the `onnx` package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Sides = Sequence[int | str]


def write_graph(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[str, Sides]],
    outputs: Mapping[str, tuple[str, Sides]],
    constants: Mapping[str, Any] | None = None,
) -> Path:
    """inputs and outputs: an element type such as FLOAT, and a shape with names where it varies."""
    from onnx import TensorProto, helper, numpy_helper, save

    def ports(named: Mapping[str, tuple[str, Sides]]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, getattr(TensorProto, kind), list(shape))
            for name, (kind, shape) in named.items()
        ]

    held = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", ports(inputs), ports(outputs), held)
    opset = helper.make_opsetid("", 17)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
    return path


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def twice(path: Path) -> Path:
    """`doubled` (B x 3) is twice `numbers`."""
    return write_graph(
        path,
        [node("Add", ["numbers", "numbers"], ["doubled"])],
        {"numbers": ("FLOAT", ("batch", 3))},
        {"doubled": ("FLOAT", ("batch", 3))},
    )
