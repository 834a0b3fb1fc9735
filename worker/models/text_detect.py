"""Find text in pictures: PP-OCR's detector (version 4) on ONNX Runtime.

The network pools over the whole canvas, so the area around a picture changes its result. Each
picture is therefore put on a canvas chosen by its own shape alone, and a batch runs one pass per
canvas: a picture gets the same boxes alone and in a batch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.devices.torch_setup import math_threads
from worker.models.base import Json
from worker.models.images import (
    MAX_PIXELS,
    example_jpeg,
    letterbox,
    load_rgb,
    normalise,
    open_image,
    upright_size,
)
from worker.models.params import read_integer, read_number, refuse_unknown
from worker.models.requirements import missing_package
from worker.models.text_boxes import TextBox, Thresholds, find_boxes
from worker.models.weights import find_weights

__all__ = ("TextDetect",)

log = structlog.get_logger(__name__)

STRIDE = 32
LONG_SIDE = 960
ASPECTS = (1 / 4, 9 / 16, 3 / 4, 1.0)
"""Short side over long side of the canvases: seven shapes, counting upright ones."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The network was trained with ImageNet's numbers on BGR channels, and in that order."""
GREY = (104, 116, 124)
"""The mean, as RGB: what is around a picture is nothing to the network."""
PARAMS = ("threshold", "box_threshold", "unclip_ratio", "max_boxes")


@dataclass(frozen=True, slots=True)
class Page:
    """A picture on its canvas, 3 x height x width, and the way back to its own pixels."""

    planes: NDArray[np.float32]
    width: int
    height: int
    scale: float
    thresholds: Thresholds


@dataclass(frozen=True, slots=True)
class TextMap:
    """How likely each pixel of the canvas is text, for one page."""

    probability: NDArray[np.float32]
    page: Page


class TextDetect:
    """Returns boxes around the lines of text in one picture a job."""

    def __init__(self) -> None:
        self._session: Any = None
        self._input_name = ""
        self._long_side = LONG_SIDE
        self._max_pixels = MAX_PIXELS

    def load(self, spec: ModelSpec, device: str) -> None:
        """Open the ONNX file. options: threads, long_side (a multiple of 32), max_pixels."""
        try:
            import onnxruntime
        except ImportError as exc:
            raise missing_package(spec.name, exc) from exc
        self._long_side = int(spec.options.get("long_side", LONG_SIDE))
        if self._long_side < STRIDE or self._long_side % STRIDE:
            raise ConfigurationError(
                f"models.{spec.name}.options.long_side must be a multiple of {STRIDE}, "
                f"not {self._long_side}"
            )
        self._max_pixels = int(spec.options.get("max_pixels", MAX_PIXELS))
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = int(spec.options.get("threads") or math_threads())
        self._session = onnxruntime.InferenceSession(
            str(find_weights(spec.weights)),
            settings,
            providers=_providers(device, onnxruntime.get_available_providers()),
        )
        self._input_name = self._session.get_inputs()[0].name

    def decode(self, value: Any, params: Mapping[str, Any]) -> Page:
        """The picture upright, scaled onto its canvas and normalised."""
        thresholds = _read_thresholds(params)
        image = open_image(value, max_pixels=self._max_pixels)
        width, height = upright_size(image)
        canvas = canvas_for(width, height, self._long_side)
        scale = min(canvas[0] / width, canvas[1] / height)
        rgb = load_rgb(image, target=(math.ceil(width * scale), math.ceil(height * scale)))
        board = letterbox(rgb, canvas, GREY)
        return Page(normalise(board[:, :, ::-1], MEAN, STD), width, height, scale, thresholds)

    def cost(self, item: Page) -> float:
        """The pixels of its canvas."""
        return float(item.planes[0].size)

    def infer(self, items: Sequence[Page]) -> Sequence[TextMap]:
        """Run one pass per canvas in the batch."""
        by_canvas: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            by_canvas[item.planes.shape].append(index)
        maps: dict[int, TextMap] = {}
        for indexes in by_canvas.values():
            batch = np.stack([items[index].planes for index in indexes])
            (probabilities,) = self._session.run(None, {self._input_name: batch})
            for index, probability in zip(indexes, probabilities, strict=True):
                maps[index] = TextMap(probability[0], items[index])
        return [maps[index] for index in range(len(items))]

    def encode(self, output: TextMap) -> Json:
        """The boxes in pixels of the upright picture, from the top down."""
        page = output.page
        # Without the canvas around the picture, where there is nothing to find.
        rows = math.ceil(page.height * page.scale)
        columns = math.ceil(page.width * page.scale)
        boxes = find_boxes(output.probability[:rows, :columns], page.thresholds)
        return {
            "boxes": [_box_json(box, page) for box in boxes],
            "width": page.width,
            "height": page.height,
        }

    def example(self) -> bytes:
        """A small picture, to warm up with."""
        return example_jpeg()


def canvas_for(width: int, height: int, long_side: int) -> tuple[int, int]:
    """The flattest canvas, as width and height, that holds the picture at full length."""
    if width < height:
        return canvas_for(height, width, long_side)[::-1]
    aspect = next(aspect for aspect in ASPECTS if height <= width * aspect)
    return long_side, math.ceil(long_side * aspect / STRIDE) * STRIDE


def _box_json(box: TextBox, page: Page) -> dict[str, Json]:
    corners = (box.corners / page.scale).clip(0, (page.width, page.height))
    return {
        "polygon": [[round(float(x), 2), round(float(y), 2)] for x, y in corners],
        "score": round(box.score, 4),
    }


def _read_thresholds(params: Mapping[str, Any]) -> Thresholds:
    refuse_unknown(params, PARAMS)
    usual = Thresholds()
    return Thresholds(
        pixel=read_number(params, "threshold", usual.pixel, 0.01, 0.99),
        box=read_number(params, "box_threshold", usual.box, 0.0, 1.0),
        unclip_ratio=read_number(params, "unclip_ratio", usual.unclip_ratio, 0.0, 5.0),
        max_boxes=read_integer(params, "max_boxes", usual.max_boxes, 1, usual.max_boxes),
    )


def _providers(device: str, available: Sequence[str]) -> list[Any]:
    if not device.startswith("cuda"):
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in available:
        log.warning("cuda_provider_missing", remedy="pip install onnxruntime-gpu")
        return ["CPUExecutionProvider"]
    ordinal = int(device.partition(":")[2] or 0)
    return [("CUDAExecutionProvider", {"device_id": ordinal}), "CPUExecutionProvider"]
