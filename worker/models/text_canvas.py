"""Chooses the canvas, or the row of canvases, on which text is looked for in a picture.

A picture is put on one canvas where that leaves its text legible. One that is flatter than 9:16
would shrink to a sliver, and its text with it; so it is cut along its long side into tiles that
overlap, and the maps of all tiles are joined before boxes are looked for: a line that lies across
a seam is one line. Pure geometry and resizing; what is chosen depends on the shape alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ("MAX_CANVAS_PIXELS", "STRIDE", "Layout", "boards", "canvas_for", "joined", "layout_for")

STRIDE = 32
ASPECTS = (1 / 4, 9 / 16, 3 / 4, 1.0)
"""Short side over long side of the canvases: seven shapes, counting upright ones."""
FLATTEST = 9 / 16
"""Of a picture that is not cut."""
OVERLAP = 1 / 8
"""Of a tile's length, shared with the next one: taller than a line of text that is worth it."""
THINNEST = 8
"""Pixels of a short side under which there is no text to cut for."""
MAX_CANVAS_PIXELS = 8_400_000
"""Of all tiles of one picture: sixteen of 960 x 544, two or three seconds of a core."""

Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a picture lie on their canvases; lengths are in pixels of the canvas."""

    scale: float
    """Pixels of the canvas per pixel of the picture."""
    size: Size
    """The scaled picture."""
    canvas: Size
    starts: tuple[int, ...]
    """Where each tile begins along the longer side; (0,) is one tile."""


def canvas_for(width: int, height: int, long_side: int) -> Size:
    """The flattest canvas, as width and height, that holds the picture at full length."""
    if width < height:
        return canvas_for(height, width, long_side)[::-1]
    aspect = next(aspect for aspect in ASPECTS if height <= width * aspect)
    return long_side, math.ceil(long_side * aspect / STRIDE) * STRIDE


def layout_for(width: int, height: int, long_side: int, max_pixels: int) -> Layout:
    """How a picture of this size is looked at, with canvases of this length.

    A tile is not enlarged. All tiles together have at most max_pixels, for which the scale of a
    very long picture is lowered; one canvas is always allowed.
    """
    longer, shorter = max(width, height), min(width, height)
    fitting = long_side / longer
    canvas = canvas_for(width, height, long_side)
    scale = min(1.0, FLATTEST * long_side / shorter)
    if scale <= fitting or shorter < THINNEST:
        return Layout(fitting, _scaled(width, height, fitting), canvas, (0,))
    step = long_side - round(long_side * OVERLAP)
    # The narrower tiles become, the more of them are allowed; so ask again until it holds.
    while scale > fitting:
        tile = _along(width >= height, long_side, max(1, math.ceil(shorter * scale)))
        canvas = canvas_for(*tile, long_side)
        length = max(long_side, round(longer * scale))
        tiles = math.ceil((length - long_side) / step) + 1
        allowed = max(1, max_pixels // (canvas[0] * canvas[1]))
        if tiles <= allowed:
            starts = tuple(
                round(index * (length - long_side) / max(1, tiles - 1)) for index in range(tiles)
            )
            return Layout(scale, _scaled(width, height, scale), canvas, starts)
        scale = min(scale * 0.98, ((allowed - 1) * step + long_side) / longer)
    canvas = canvas_for(width, height, long_side)
    return Layout(fitting, _scaled(width, height, fitting), canvas, (0,))


def boards(image: Image.Image, layout: Layout, fill: tuple[int, int, int]) -> list[Image.Image]:
    """The tiles of an RGB picture, each on a canvas of its own, at its top left."""
    width, height = layout.size
    flat, found = width >= height, []
    for start in layout.starts:
        length = min(max(layout.canvas), max(layout.size) - start)
        tile = _along(flat, length, min(layout.size))
        begin, end = start * _ratio(image, layout), (start + length) * _ratio(image, layout)
        box = (begin, 0, end, image.height) if flat else (0, begin, image.width, end)
        board = Image.new("RGB", layout.canvas, fill)
        board.paste(
            image.resize(
                tile,
                Image.Resampling.BICUBIC,
                box=(box[0], box[1], min(box[2], image.width), min(box[3], image.height)),
                reducing_gap=2.0,
            )
        )
        found.append(board)
    return found


def joined(maps: Sequence[NDArray[np.float32]], layout: Layout) -> NDArray[np.float32]:
    """One map of height x width for the picture; in an overlap each tile gives its nearer half."""
    width, height = layout.size
    if len(maps) == 1:
        return maps[0][:height, :width]
    whole = np.empty((height, width), np.float32)
    flat, tile = width >= height, max(layout.canvas)
    ends = [(a + tile + b) // 2 for a, b in zip(layout.starts, layout.starts[1:], strict=False)]
    begin = 0
    for start, end, part in zip(layout.starts, (*ends, max(layout.size)), maps, strict=True):
        if flat:
            whole[:, begin:end] = part[:height, begin - start : end - start]
        else:
            whole[begin:end] = part[begin - start : end - start, :width]
        begin = end
    return whole


def _ratio(image: Image.Image, layout: Layout) -> float:
    """Pixels of the decoded picture, which may be a smaller one, per pixel of the canvas."""
    return max(image.size) / max(layout.size)


def _scaled(width: int, height: int, scale: float) -> Size:
    return max(1, round(width * scale)), max(1, round(height * scale))


def _along(flat: bool, length: int, breadth: int) -> Size:
    return (length, breadth) if flat else (breadth, length)
