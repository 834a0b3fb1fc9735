"""Decodes untrusted bytes into pixels, for all image models.

The size is read from the header and checked before anything is decoded, so that a small file
cannot exhaust the memory. JPEGs are decoded at a reduced scale where the model needs less: 4-5
times faster on large photos. Of an animation only the first frame is read. A file's name and
declared type are ignored: its format is detected from its first bytes. Metadata that cannot be
read costs nothing but its orientation. Uses only Pillow calls that pillow-simd has too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError, features

from common.errors import FleetError, InputTooLarge, InvalidInput, UnsupportedMedia
from common.inputs.checks import sniff_image
from common.inputs.image_headers import MAX_PIXELS
from worker.models.colours import as_rgb, read_ycbcr_as_such
from worker.models.metadata import bare_jpeg, bare_png
from worker.models.prepared import PREPARED

__all__ = (
    "MAX_PIXELS",
    "centre_crop",
    "decode_rgb",
    "example_jpeg",
    "load_rgb",
    "normalise",
    "open_image",
    "prepared_rgb",
    "upright_size",
)

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
"""Width and height, as Pillow has them."""

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF") + (("WEBP",) if features.check("webp") else ())
"""A pillow-simd built where libwebp's headers were missing reads no WebP."""
_PIXEL_BYTES = 4
"""Pillow keeps a fourth byte beside red, green and blue."""
_ROW_BYTES, _IMAGE_BYTES = 8, 1500
"""A pointer to each row, and what else a picture takes."""
RGB = "rgb"
"""What a handler joins that decodes pictures by `prepared_rgb`."""
EXIF_ORIENTATION = 0x0112
TILE_WIDTH, TILE_LENGTH = 322, 323
TIFF_GROUPS = (34665, 34853, 40965)
"""Tags that lead to more of them: EXIF, GPS, interoperability."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the operation that undoes it; 5 and above swap the sides."""


def decode_rgb(
    content: bytes, *, max_pixels: int = MAX_PIXELS, target: Size | None = None
) -> Pixels:
    """Decode an image to upright uint8 RGB, height x width x 3.

    With a target, a large JPEG may come back smaller, but still covers it.
    Raises InvalidInput with a sentence for the client.
    """
    return np.asarray(load_rgb(open_image(content, max_pixels=max_pixels), target))


def open_image(content: object, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the header and refuse what is not an image or is too large; decodes nothing."""
    if not isinstance(content, bytes) or not content:
        raise InvalidInput("expected the bytes of an encoded image, and there are none")
    with _refusals(content):
        image = _opened(content)
    width, height = image.size
    if width * height > max_pixels:
        raise InputTooLarge(
            f"the image is {width} x {height}, more than the {max_pixels:,} pixels "
            "allowed here; send a smaller one"
        )
    if image.format == "TIFF":
        _check_tiff(image, max_pixels)
    return image


def _opened(content: bytes) -> Image.Image:
    if sniff_image(content) != "image/jpeg":
        return Image.open(io.BytesIO(bare_png(content)), formats=FORMATS)
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except Exception:  # noqa: BLE001 - its metadata may be all that is wrong; if not, this raises again
        return Image.open(io.BytesIO(bare_jpeg(content)), formats=FORMATS)


def _check_tiff(image: Image.Image, max_pixels: int) -> None:
    """Check its tile sizes and compression: a TIFF of few pixels may declare huge tiles, and memory
    is allocated for a whole tile.
    """
    with _refusals():
        tags = getattr(image, "tag_v2", {})
        width, height = int(tags.get(TILE_WIDTH, 0)), int(tags.get(TILE_LENGTH, 0))
    if width * height > max_pixels:
        raise InputTooLarge(f"the TIFF's tiles have more than the {max_pixels:,} pixels allowed")
    compression = image.info.get("compression", "raw")
    if compression != "raw" and not features.check("libtiff"):
        raise UnsupportedMedia(
            f"the TIFF is compressed ({compression}), and this worker's imaging library was built "
            "without libtiff; send it uncompressed or as PNG, or have the worker's operator "
            "install libtiff (lanefleet doctor says how)"
        )
    with _refusals():
        read_ycbcr_as_such(image)
        # Pillow reads these as it decodes, and refuses the picture where they are broken; and it
        # would turn it by what XMP says, which it did not count in for the size.
        image.info.pop("xmp", None)
        exif = image.getexif()
        for group in TIFF_GROUPS:
            exif.pop(group, None)


def upright_size(image: Image.Image) -> Size:
    """Width and height of an opened image as a viewer shows it."""
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def load_rgb(image: Image.Image, target: Size | None = None) -> Image.Image:
    """Decode an opened image to an upright RGB one; see decode_rgb."""
    orientation = _orientation(image)
    with _refusals():
        if target is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, target[::-1] if orientation >= 5 else target)
        image.load()
        rgb = as_rgb(image)
        return rgb.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else rgb


def prepared_rgb(content: bytes, image: Image.Image, target: Size | None = None) -> Image.Image:
    """As load_rgb of the image that these bytes were opened as, made by this model or another."""
    orientation = _orientation(image)
    with _refusals():
        if target is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, target[::-1] if orientation >= 5 else target)
    if not PREPARED.keeps(RGB):
        return load_rgb(image)
    variant = (image.mode, image.size)  # a JPEG's at the scale that was chosen
    return PREPARED.get(RGB, content, lambda: _bare(load_rgb(image)), _bytes_of, variant)


def _bare(image: Image.Image) -> Image.Image:
    """Its pixels alone: an opened file has its bytes, and all pictures their metadata, which may be
    a thousand times as large.
    """
    alone = image.copy() if isinstance(image, ImageFile.ImageFile) else image
    alone.info = {}
    return alone


def _bytes_of(image: Image.Image) -> int:
    return _IMAGE_BYTES + image.height * (_PIXEL_BYTES * image.width + _ROW_BYTES)


def _orientation(image: Image.Image) -> int:
    """How the picture lies; 1, upright, where its metadata cannot be read."""
    if image.format == "TIFF":
        return 1  # Pillow turns it as it decodes, and tells the turned size before
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        return orientation if orientation in UPRIGHT else 1
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the pixels are good, whatever was wrong beside them
        return 1


@contextmanager
def _refusals(content: bytes = b"") -> Iterator[None]:
    """Turn what Pillow raises over bad bytes into a sentence for the client.

    Its decoders raise a dozen unrelated types (OSError, SyntaxError,
    struct.error, IndexError, ...), so this boundary catches broadly.
    """
    try:
        yield
    except (FleetError, MemoryError):
        raise
    except (UnidentifiedImageError, KeyError) as exc:
        raise _unsupported(content, exc) from exc
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise InputTooLarge(f"the image has too many pixels; send a smaller one: {exc}") from exc
    except ImportError as exc:
        # Its text names folders of this machine.
        raise UnsupportedMedia(
            "this worker's imaging library was built without what this picture's colours need; "
            "send RGB or grey"
        ) from exc
    except Exception as exc:
        raise InvalidInput(f"the image is truncated or corrupt: {_without_paths(exc)}") from exc


def _unsupported(content: bytes, exc: Exception) -> InvalidInput:
    """For what Pillow does not know; a KeyError at opening is a TIFF's unknown compression."""
    if sniff_image(content) == "image/tiff":
        return UnsupportedMedia(
            "TIFFs of this kind of pixels or compression are not read here; send 8 bits a "
            "sample, as RGB or grey, or a PNG"
        )
    if isinstance(exc, KeyError):
        return InvalidInput(f"the image is truncated or corrupt: {_without_paths(exc)}")
    return UnsupportedMedia(
        f"the input is not an image that can be read here; send one of {', '.join(FORMATS)}"
    )


def _without_paths(exc: Exception) -> str:
    """What it says, less what might name folders of this machine."""
    said = str(exc)[:200]
    return type(exc).__name__ if "/" in said or "\\" in said else said


def centre_crop(image: Image.Image, *, shorter_side: int, crop: int) -> Pixels:
    """Scale the shorter side to `shorter_side`, then cut the middle `crop` x `crop`.

    In one step from the source, so that an image of 1 x 1,000,000 pixels is
    never scaled as a whole.
    """
    width, height = image.size
    side = min(width, height) * crop / shorter_side
    left, top = (width - side) / 2, (height - side) / 2
    square = image.resize(
        (crop, crop), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    return np.asarray(square)


def normalise(pixels: Pixels, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Scale 0-255 to (x / 255 - mean) / std per channel: H x W x C in, C x H x W out."""
    height, width, channels = pixels.shape
    planes = np.empty((channels, height, width), np.float32)
    for channel in range(channels):
        gain = np.float32(1 / (255 * std[channel]))
        np.multiply(pixels[:, :, channel], gain, out=planes[channel])
        planes[channel] -= np.float32(mean[channel] / std[channel])
    return planes


def example_jpeg(width: int = 320, height: int = 240) -> bytes:
    """A small JPEG of soft colours, to warm a model up with."""
    ramp = Image.linear_gradient("L").resize((width, height))
    picture = Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.ROTATE_180), ramp))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()
