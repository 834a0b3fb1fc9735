"""Boxes of detected things: from a network's queries to pixels, without the network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ("Found", "Limits", "Place", "overlaps", "pick", "suppress")

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture lies on the canvas, and its own size; pixels."""

    width: int
    height: int
    shown_width: int
    shown_height: int
    """From the top left; the rest of the canvas is padding."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Which boxes are answered."""

    threshold: float = 0.5
    max_boxes: int = 100
    iou: float = 1.0
    """Of two boxes of a label that overlap by more, the likelier is answered; 1 answers both."""


@dataclass(frozen=True, slots=True)
class Found:
    """N boxes in pixels of the picture, the likeliest first."""

    boxes: Floats
    """N x 4: left, top, right, bottom."""
    labels: NDArray[np.int64]
    scores: Floats


def pick(scores: Floats, centres: Floats, size: tuple[float, float], limits: Limits) -> Found:
    """The boxes over the threshold.

    scores: Q x C, a probability per query and class. centres: Q x 4, the middle and the size of
    each query's box as parts of `size`, the pixels (width, height) of the picture that they are of.
    """
    queries, labels = np.nonzero(scores >= limits.threshold)
    likely = scores[queries, labels]
    order = np.argsort(-likely, kind="stable")
    if limits.iou >= 1:
        order = order[: limits.max_boxes]
    queries, labels, likely = queries[order], labels[order], likely[order]
    middle, half = centres[queries, :2], centres[queries, 2:] / 2
    scale = np.array(size, np.float32)
    boxes = np.concatenate([(middle - half) * scale, (middle + half) * scale], axis=1)
    found = Found(boxes.astype(np.float32), labels, likely)
    return found if limits.iou >= 1 else suppress(found, limits.iou, limits.max_boxes)


def suppress(found: Found, iou: float, most: int) -> Found:
    """Without those that overlap a likelier one of their label by more than `iou`."""
    over = (overlaps(found.boxes) > iou) & (found.labels[:, None] == found.labels)
    kept: list[int] = []
    gone = np.zeros(len(found.labels), bool)
    for number in range(len(gone)):
        if not gone[number] and len(kept) < most:
            kept.append(number)
            gone |= over[number]
    return Found(found.boxes[kept], found.labels[kept], found.scores[kept])


def overlaps(boxes: Floats) -> Floats:
    """N x N: intersection over union of each two."""
    first, last = boxes[:, None, :2], boxes[:, None, 2:]
    sides = np.minimum(last, boxes[:, 2:]) - np.maximum(first, boxes[:, :2])
    common = np.maximum(sides, 0).prod(axis=2)
    area = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
    union = area[:, None] + area - common
    found: Floats = common / np.maximum(union, np.finfo(np.float32).tiny)
    return found
