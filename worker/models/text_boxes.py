"""Turn the detector's probability map into boxes around lines of text.

The network marks a shrunken core of each line (Liao et al., "Real-time
Scene Text Detection with Differentiable Binarization", 2020); a box is the
smallest rotated rectangle around a core, grown back by the amount that the
shrinking took. Growing a rectangle's outline by a distance adds twice that
distance to each side, so no polygon library is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ("TextBox", "Thresholds", "find_boxes")

MIN_CORE_SIDE = 3.0
MIN_BOX_SIDE = 5.0
"""In pixels of the map; anything thinner is noise."""

Corners = NDArray[np.float32]
Rectangle = tuple[Sequence[float], Sequence[float], float]
"""Centre, width and height, and angle in degrees, as OpenCV has them."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What counts as text; the defaults are those the model was published with."""

    pixel: float = 0.3
    box: float = 0.6
    unclip_ratio: float = 1.5
    max_boxes: int = 1000


@dataclass(frozen=True, slots=True)
class TextBox:
    """Four corners clockwise from the top left, in the map's pixels, and a score of 0 to 1."""

    corners: Corners
    score: float


def find_boxes(probability: NDArray[np.float32], thresholds: Thresholds) -> list[TextBox]:
    """The boxes in a map of height x width probabilities, from the top down."""
    cores = (probability > thresholds.pixel).astype(np.uint8)
    boxes = []
    for contour in _outlines(cores, thresholds.max_boxes):
        core = cv2.minAreaRect(contour)
        if min(core[1]) < MIN_CORE_SIDE:
            continue
        score = _mean_inside(probability, _corners(core))
        if score < thresholds.box:
            continue
        box = _grown(core, thresholds.unclip_ratio)
        if min(box[1]) >= MIN_BOX_SIDE:
            boxes.append(TextBox(_clockwise(_corners(box)), score))
    return sorted(boxes, key=lambda box: (float(box.corners[0, 1]), float(box.corners[0, 0])))


def _outlines(cores: NDArray[np.uint8], at_most: int) -> Iterator[NDArray[np.integer]]:
    """Outer contours; those of holes in a core are left out."""
    contours, hierarchy = cv2.findContours(cores, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if hierarchy is None:
        return
    has_parent = hierarchy[0, :, 3] >= 0
    outer = (contour for contour, hole in zip(contours, has_parent, strict=True) if not hole)
    yield from islice(outer, at_most)


def _corners(rectangle: Rectangle) -> Corners:
    return cv2.boxPoints(rectangle).astype(np.float32)


def _mean_inside(probability: NDArray[np.float32], corners: Corners) -> float:
    height, width = probability.shape
    left, top = np.floor(corners.min(axis=0)).astype(int).clip(0, (width - 1, height - 1))
    right, bottom = np.ceil(corners.max(axis=0)).astype(int).clip(0, (width - 1, height - 1))
    window = probability[top : bottom + 1, left : right + 1]
    inside = np.zeros(window.shape, np.uint8)
    cv2.fillPoly(inside, [np.round(corners - (left, top)).astype(np.int32)], 1)
    return float(cv2.mean(window, inside)[0])


def _grown(core: Rectangle, ratio: float) -> Rectangle:
    centre, (width, height), angle = core
    distance = width * height * ratio / (2 * (width + height))
    return centre, (width + 2 * distance, height + 2 * distance), angle


def _clockwise(corners: Corners) -> Corners:
    """Order corners clockwise on the screen, the one nearest the top left first."""
    offsets = corners - corners.mean(axis=0)
    ordered = corners[np.argsort(np.arctan2(offsets[:, 1], offsets[:, 0]))]
    return np.roll(ordered, -int(ordered.sum(axis=1).argmin()), axis=0)
