"""A model over several GPUs is refused where its process sees one, with what to do instead."""

from __future__ import annotations

from typing import Any

import pytest

from common.catalog import BUILTIN_HANDLERS, ModelSpec
from common.errors import ConfigurationError
from worker.models import load_handler
from worker.models.sharding import refuse_missing_gpus


@pytest.mark.parametrize("handler", sorted(BUILTIN_HANDLERS))
@pytest.mark.parametrize("option", ["device_map", "tensor_parallel_size", "pipeline-parallel-size"])
def test_no_handler_in_the_box_divides_a_model(handler: str, option: str) -> None:
    spec = ModelSpec(name="big", handler=handler, options={option: "auto"})
    said = rf"models\.big\.options\.{option}: handler {handler} runs on one device"
    with pytest.raises(ConfigurationError, match=said):
        load_handler(spec)


@pytest.mark.parametrize(
    ("command", "given", "visible", "wanted", "seen"),
    [
        (("vllm", "serve", "-tp", "2"), {}, "0", 2, 1),
        (("vllm", "--tensor-parallel-size=4", "-pp", "2"), {}, "3", 8, 1),
        (("tgi", "--num-shard", "2"), {}, "", 2, 0),
        (("vllm", "-pp", "3"), {"CUDA_VISIBLE_DEVICES": "0,1"}, "0", 3, 2),
    ],
)
def test_a_server_that_wants_more_gpus_than_it_sees_is_refused(
    command: tuple[str, ...], given: dict[str, str], visible: str, wanted: int, seen: int
) -> None:
    said = f"divides the model over {wanted} GPUs, and this worker sees {seen}: name them"
    with pytest.raises(ConfigurationError, match=said):
        refuse_missing_gpus("big", command, given, {"CUDA_VISIBLE_DEVICES": visible})


@pytest.mark.parametrize(
    ("command", "given", "environment"),
    [
        (("vllm", "serve"), {}, {"CUDA_VISIBLE_DEVICES": "0"}),
        (("vllm", "-tp", "1"), {}, {"CUDA_VISIBLE_DEVICES": ""}),
        (("vllm", "-tp", "2"), {"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": ""}),
        (("vllm", "-tp", "2"), {}, {}),
        (("vllm", "-tp"), {}, {"CUDA_VISIBLE_DEVICES": "0"}),
    ],
)
def test_one_that_sees_enough_is_started(
    command: tuple[str, ...], given: dict[str, str], environment: dict[str, Any]
) -> None:
    refuse_missing_gpus("big", command, given, environment)
