"""Find text in pictures: PP-OCR's detector (version 4) on ONNX Runtime.

The network pools over the whole canvas, so the area around a picture changes its result. Each
picture is therefore put on canvases chosen by its own shape alone, and a batch runs one pass per
shape of canvas: a picture gets the same boxes alone and in a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.catalog import ModelSpec
from common.errors import ConfigurationError, InvalidInput
from worker.models.base import Json
from worker.models.images import (
    MAX_PIXELS,
    example_jpeg,
    load_rgb,
    normalise,
    open_image,
    upright_size,
)
from worker.models.params import read_integer, read_number, refuse_unknown
from worker.models.sessions import Session, session_for
from worker.models.text_boxes import TextBox, Thresholds, find_boxes
from worker.models.text_canvas import (
    MAX_CANVAS_PIXELS,
    STRIDE,
    Layout,
    boards,
    joined,
    layout_for,
)
from worker.models.weights import find_weights

__all__ = ("TextDetect",)

LONG_SIDE, MAX_LONG_SIDE = 960, 1920
RUN_PIXELS = 8 * LONG_SIDE * LONG_SIDE
"""Most pixels in one pass of the network, whose memory grows with them."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The network was trained with ImageNet's numbers on BGR channels, and in that order."""
GREY = (104, 116, 124)
"""The mean, as RGB: what is around a picture is nothing to the network."""
PARAMS = ("threshold", "box_threshold", "unclip_ratio", "max_boxes", "long_side")


@dataclass(frozen=True, slots=True)
class Page:
    """A picture on its canvases, tiles x 3 x height x width, and the way back to its pixels."""

    planes: NDArray[np.float32]
    width: int
    height: int
    layout: Layout
    thresholds: Thresholds


@dataclass(frozen=True, slots=True)
class TextMap:
    """How likely each pixel of each canvas is text, for one page."""

    tiles: list[NDArray[np.float32]]
    page: Page


class TextDetect:
    """Returns boxes around the lines of text in one picture a job."""

    pads = False
    """A batch runs its canvases by their shape."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._input_name = ""
        self.backend = "onnx"
        self._long_side, self._max_long_side = LONG_SIDE, MAX_LONG_SIDE
        self._max_canvas_pixels = MAX_CANVAS_PIXELS
        self._max_pixels = MAX_PIXELS

    def load(self, spec: ModelSpec, device: str) -> None:
        """Open the ONNX file. options: threads, max_pixels, max_canvas_pixels, long_side and
        max_long_side (multiples of 32).
        """
        self._long_side = _read_side(spec, "long_side", LONG_SIDE)
        self._max_long_side = _read_side(spec, "max_long_side", max(MAX_LONG_SIDE, self._long_side))
        self._max_canvas_pixels = int(spec.options.get("max_canvas_pixels", MAX_CANVAS_PIXELS))
        self._max_pixels = int(spec.options.get("max_pixels", MAX_PIXELS))
        path = find_weights(spec.weights)
        self._session = session_for(spec, path, device)
        self._input_name = self._session.inputs[0].name
        self.backend = self._session.backend

    def decode(self, value: Any, params: Mapping[str, Any]) -> Page:
        """The picture upright, scaled onto its canvases and normalised."""
        thresholds, long_side = _read_thresholds(params), self._read_long_side(params)
        image = open_image(value, max_pixels=self._max_pixels)
        width, height = upright_size(image)
        layout = layout_for(width, height, long_side, self._max_canvas_pixels)
        rgb = load_rgb(image, target=layout.size)
        planes = [
            normalise(np.asarray(board)[:, :, ::-1], MEAN, STD)
            for board in boards(rgb, layout, GREY)
        ]
        return Page(np.stack(planes), width, height, layout, thresholds)

    def _read_long_side(self, params: Mapping[str, Any]) -> int:
        side = read_integer(params, "long_side", self._long_side, STRIDE, self._max_long_side)
        if side % STRIDE:
            raise InvalidInput(f"params.long_side must be a multiple of {STRIDE}, not {side}")
        return side

    def cost(self, item: Page) -> float:
        """The pixels of its canvases."""
        return float(item.planes[:, 0].size)

    def infer(self, items: Sequence[Page]) -> Sequence[TextMap]:
        """Run the canvases of all items by their shape, as many at a time as memory allows."""
        assert self._session is not None
        by_canvas: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            by_canvas[item.planes.shape[1:]] += [index] * len(item.planes)
        maps = [TextMap([], item) for item in items]
        for (_, height, width), owners in by_canvas.items():
            planes = chain.from_iterable(items[index].planes for index in dict.fromkeys(owners))
            left = iter(owners)
            while batch := list(islice(planes, max(1, RUN_PIXELS // (height * width)))):
                (probabilities,) = self._session.run({self._input_name: np.stack(batch)})
                for probability, owner in zip(probabilities, left, strict=False):
                    maps[owner].tiles.append(probability[0])
        return maps

    def encode(self, output: TextMap) -> Json:
        """The boxes in pixels of the upright picture, from the top down."""
        page = output.page
        boxes = find_boxes(joined(output.tiles, page.layout), page.thresholds)
        return {
            "boxes": [_box_json(box, page) for box in boxes],
            "width": page.width,
            "height": page.height,
            "scale": round(page.layout.scale, 4),
            "tiles": len(page.layout.starts),
        }

    def example(self) -> bytes:
        """A small picture, to warm up with."""
        return example_jpeg()


def _box_json(box: TextBox, page: Page) -> dict[str, Json]:
    corners = (box.corners / page.layout.scale).clip(0, (page.width, page.height))
    return {
        "polygon": [[round(float(x), 2), round(float(y), 2)] for x, y in corners],
        "score": round(box.score, 4),
    }


def _read_side(spec: ModelSpec, name: str, default: int) -> int:
    side = int(spec.options.get(name, default))
    if side < STRIDE or side % STRIDE:
        raise ConfigurationError(
            f"models.{spec.name}.options.{name} must be a multiple of {STRIDE}, not {side}"
        )
    return side


def _read_thresholds(params: Mapping[str, Any]) -> Thresholds:
    refuse_unknown(params, PARAMS)
    usual = Thresholds()
    return Thresholds(
        pixel=read_number(params, "threshold", usual.pixel, 0.01, 0.99),
        box=read_number(params, "box_threshold", usual.box, 0.0, 1.0),
        unclip_ratio=read_number(params, "unclip_ratio", usual.unclip_ratio, 0.0, 5.0),
        max_boxes=read_integer(params, "max_boxes", usual.max_boxes, 1, usual.max_boxes),
    )
