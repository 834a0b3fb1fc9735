"""Turns the pixels of any picture that Pillow reads into 8-bit RGB.

A picture's numbers are scaled by the depth that its format declares. Where that says nothing
(32-bit and signed numbers) the smallest usual range that holds them decides, and what fits none
is refused: guessed brightness would be a wrong answer that looks like one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.errors import UnsupportedMedia

__all__ = ("as_rgb", "read_ycbcr_as_such")

BITS_PER_SAMPLE, PHOTOMETRIC, SUBSAMPLING, SAMPLE_FORMAT = 258, 262, 530, 339
"""TIFF tags."""
WHITE_IS_ZERO, YCBCR = 0, 6
"""Values of PHOTOMETRIC."""


def read_ycbcr_as_such(image: Image.Image) -> None:
    """Correct how an opened TIFF of uncompressed YCbCr will be read.

    Pillow 12 takes its three bytes a pixel for four of RGB, and calls it truncated. Raises
    UnsupportedMedia where the colours are stored at half the size.
    """
    if _tag(image, PHOTOMETRIC) != YCBCR or image.info.get("compression") != "raw":
        return
    if image.mode == "L":
        return  # the brightness alone
    if _tag(image, SUBSAMPLING) != (1, 1):
        raise UnsupportedMedia("an uncompressed TIFF of subsampled YCbCr is not read; send RGB")
    opened: Any = image  # Pillow's types do not have what its file readers add.
    if image.mode == "RGB" and all(tile.args[0] == "RGBX" for tile in opened.tile):
        opened._mode = "YCbCr"
        opened.tile = [tile._replace(args=("YCbCr", *tile.args[1:])) for tile in opened.tile]


def as_rgb(image: Image.Image) -> Image.Image:
    """The pixels of a decoded image as RGB, transparent ones over white.

    Raises UnsupportedMedia for numbers without an agreed range.
    """
    if image.mode.startswith("I"):
        return Image.fromarray(_grey_of(image)).convert("RGB")
    if image.mode == "F":
        raise UnsupportedMedia("floating-point images have no agreed range; send 8 or 16 bits")
    if image.mode == "L" and _tag(image, SAMPLE_FORMAT) == (2,):
        _refuse_beyond(np.asarray(image).view(np.int8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        # White, for dark writing on a transparent ground is the common case.
        flat = Image.new("RGB", rgba.size, "white")
        flat.paste(rgba, mask=rgba.getchannel("A"))
        return flat
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_of(image: Image.Image) -> NDArray[np.uint8]:
    """Grey of more than 8 bits, which Pillow would clip to white instead of scaling it."""
    levels = np.asarray(image)
    if image.mode == "I":
        _refuse_beyond(levels)
        bits = 8 if levels.max() <= 255 else 16
    else:
        bits = 12 if _tag(image, BITS_PER_SAMPLE) == (12,) else 16
    grey = (levels >> (bits - 8)).astype(np.uint8)
    if _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[levels == clear] = 255
    return grey


def _refuse_beyond(levels: NDArray[np.integer]) -> None:
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or high > 65_535:
        raise UnsupportedMedia(
            f"the image's numbers go from {low:,} to {high:,}, and only 0 to 65,535 has an agreed "
            "brightness; send 8 or 16 bits without a sign"
        )


def _tag(image: Image.Image, number: int) -> object:
    """A TIFF's tag; None where it has none, and in other formats."""
    tags: Mapping[int, object] = getattr(image, "tag_v2", {})
    return tags.get(number)
