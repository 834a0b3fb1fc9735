"""ONNX Runtime's providers: their words, their order, what each is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigurationError
from worker.models.sessions.providers import (
    CPU,
    CUDA,
    TENSORRT,
    Machine,
    Shapes,
    chosen,
    engine_folder,
    options_of,
    profiles,
)
from worker.models.sessions.session import Port

GPU = Machine((TENSORRT, CUDA, CPU), "cuda:1", 1000)
TOKENS = Port("input_ids", "int64", (None, None))
PIXELS = Port("pixel_values", "float32", (None, 3, 224, 224))


@pytest.mark.parametrize(
    ("words", "machine", "names"),
    [
        ((), Machine((CPU,)), [CPU]),
        ((), Machine((CUDA, CPU)), [CPU]),
        ((), GPU, [CUDA, CPU]),
        ((), Machine((CPU,), "cuda:0"), [CPU]),
        (("tensorrt", "CUDA"), GPU, [TENSORRT, CUDA, CPU]),
        (("cpu",), GPU, [CPU]),
        ((CUDA, "cuda", "cpu"), GPU, [CUDA, CPU]),
        (("XnnpackExecutionProvider",), Machine((CPU, "XnnpackExecutionProvider")), None),
    ],
)
def test_words_become_providers_in_their_order(
    words: tuple[str, ...], machine: Machine, names: list[str] | None
) -> None:
    assert chosen(words, machine) == (names or [*words, CPU])


@pytest.mark.parametrize(
    ("words", "machine", "said"),
    [
        (("tensorrt",), Machine((CPU, "AzureExecutionProvider")), "which has CPUExecutionProvider"),
        (("rocket",), Machine((CPU,)), "rocket is not in this ONNX Runtime"),
        (("cuda",), Machine((CUDA, CPU)), "needs a GPU, and this worker runs on cpu"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    words: tuple[str, ...], machine: Machine, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        chosen(words, machine)


def options(names: list[str], shapes: Shapes, *ports: Port) -> dict[str, Any]:
    found = options_of(names, GPU, shapes, ports, Path("/state/engines/one"))
    return dict(one for one in found if not isinstance(one, str))


def test_cuda_has_its_limit_and_an_arena_that_grows_as_asked() -> None:
    assert options([CUDA, CPU], Shapes())[CUDA] == {
        "device_id": 1,
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": 1000,
    }
    (unknown, _) = options_of([CUDA, CPU], Machine((CUDA,), "cuda:0"), Shapes(), (), Path())
    assert "gpu_mem_limit" not in unknown[1]


@pytest.mark.parametrize(
    ("precision", "flags"),
    [("fp32", (False, False)), ("fp16", (True, False)), ("int8", (False, True))],
)
def test_tensorrt_is_told_precision_shapes_and_where_engines_lie(
    precision: str, flags: tuple[bool, bool]
) -> None:
    told = options([TENSORRT], Shapes(precision, 16, 256), TOKENS)[TENSORRT]
    assert (told["trt_fp16_enable"], told["trt_int8_enable"]) == flags
    assert told["trt_engine_cache_path"] == "/state/engines/one"
    assert told["trt_profile_max_shapes"] == "input_ids:16x256"


def test_profiles_cover_every_batch_and_length() -> None:
    assert profiles([PIXELS], Shapes(max_batch=8)) == {
        "trt_profile_min_shapes": "pixel_values:1x3x224x224",
        "trt_profile_opt_shapes": "pixel_values:8x3x224x224",
        "trt_profile_max_shapes": "pixel_values:8x3x224x224",
    }
    both = profiles([TOKENS, Port("mask", "int64", (None, None))], Shapes("fp32", 4, 256))
    assert both["trt_profile_min_shapes"] == "input_ids:1x1,mask:1x1"
    assert both["trt_profile_opt_shapes"] == "input_ids:4x64,mask:4x64"
    assert profiles([TOKENS], Shapes(max_batch=4)) == {}


def test_engines_of_other_weights_gpus_versions_or_shapes_lie_apart() -> None:
    base = ("ab" * 16, "H100", "1.32", Shapes())
    others = [
        ("cd" * 16, "H100", "1.32", Shapes()),
        ("ab" * 16, "A10", "1.32", Shapes()),
        ("ab" * 16, "H100", "1.33", Shapes()),
        ("ab" * 16, "H100", "1.32", Shapes("fp16")),
        ("ab" * 16, "H100", "1.32", Shapes(max_batch=2)),
    ]
    assert len({engine_folder(Path(), *one) for one in (base, *others)}) == 6
