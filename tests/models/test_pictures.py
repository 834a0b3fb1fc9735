"""Pixels of pictures that are stored in rare ways, or stand beside broken metadata.

Every picture is drawn here with known pixels; `compressed_tiffs.json` holds what only libtiff
writes.
"""

from __future__ import annotations

import base64
import importlib
import json
import struct
import zlib
from typing import Any

import pytest

from common.errors import InputTooLarge, InvalidInput, UnsupportedMedia
from common.inputs.checks import check_file, sniff_image
from tests.models.test_models import DATA, encoded, need

need("PIL", "numpy")

import numpy as np  # noqa: E402  # after the check that it is there
from PIL import Image, features  # noqa: E402

images = importlib.import_module("worker.models.images")

RGB = np.zeros((16, 32, 3), np.uint8)
RGB[:, :16], RGB[:, 16:], RGB[8:, :16] = (200, 30, 40), (20, 180, 60), (255, 255, 255)
GREY = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (16, 1))
RGB_TAGS = {"t258": (8, 8, 8), "t262": (2,), "t277": (3,)}
COMPRESSED: dict[str, bytes] = {
    name: base64.b64decode(text)
    for name, text in json.loads((DATA / "compressed_tiffs.json").read_text()).items()
}


def tiff(data: bytes, width: int, height: int, order: str = "<", **tags: tuple[int, ...]) -> bytes:
    """A TIFF of one strip; tags: t258=(12,), as shorts."""
    usual: dict[int, tuple[int, ...]] = {
        256: (width,), 257: (height,), 258: (8,), 259: (1,), 262: (1,), 277: (1,), 278: (height,),
    }  # fmt: skip
    usual |= {int(name[1:]): value for name, value in tags.items()}
    entries, after = [], b""
    count = len(usual) + 2
    behind = 8 + 2 + 12 * count + 4
    for tag, values in sorted(usual.items()):
        packed = struct.pack(f"{order}{len(values)}H", *values)
        if len(packed) > 4:
            packed, after = struct.pack(f"{order}I", behind + len(after)), after + packed
        entries.append(
            (tag, struct.pack(f"{order}HHI", tag, 3, len(values)) + packed.ljust(4, b"\0"))
        )
    for tag, value in ((273, behind + len(after)), (279, len(data))):
        entries.append((tag, struct.pack(f"{order}HHII", tag, 4, 1, value)))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, count)
    return head + b"".join(entry for _, entry in sorted(entries)) + b"\0\0\0\0" + after + data


def grey_of(content: bytes) -> Any:
    pixels = images.decode_rgb(content)
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 1])
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])
    return pixels[:, :, 0]


# ---------------------------------------------------------------- TIFF


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation: int) -> None:
    content = encoded(Image.fromarray(RGB), "TIFF", tiffinfo={274: orientation})
    turn = images.UPRIGHT.get(orientation)
    upright = Image.fromarray(RGB)
    expected = np.asarray(upright if turn is None else upright.transpose(turn))
    assert np.array_equal(images.decode_rgb(content), expected)
    assert images.upright_size(images.open_image(content)) == expected.shape[1::-1]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("numbers", "tags"),
    [
        (GREY.astype("i4"), {"t258": (32,), "t339": (2,)}),
        (GREY.astype("u4"), {"t258": (32,), "t339": (1,)}),
        (GREY.astype("i4") * 257, {"t258": (32,), "t339": (2,)}),
        (GREY.astype("i2"), {"t258": (16,), "t339": (2,)}),
        (GREY.astype("u2") * 257, {"t258": (16,)}),
        (GREY.astype("u1") // 2 * 2, {"t258": (8,)}),
        (GREY.astype("u1") // 2, {"t258": (8,), "t339": (2,)}),
    ],
    ids=["int32", "uint32", "int32-of-16-bits", "int16", "uint16", "uint8", "int8"],
)
def test_grey_of_any_depth_has_the_brightness_it_was_stored_with(
    order: str, numbers: Any, tags: dict[str, tuple[int, ...]]
) -> None:
    if order == ">" and tags["t258"] == (32,) and tags["t339"] == (1,):
        pytest.skip("Pillow reads no big-endian unsigned 32 bits")
    stored = numbers.astype(numbers.dtype.newbyteorder(order)).tobytes()
    brightness = numbers // 257 if numbers.max() > 255 else numbers
    assert np.array_equal(grey_of(tiff(stored, 32, 16, order, **tags)), brightness)


def test_twelve_bits_are_scaled_from_twelve() -> None:
    levels = (GREY.astype(int) * 4095 // 255).ravel()
    pairs = zip(levels[::2], levels[1::2], strict=True)
    packed = b"".join(bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in pairs)
    assert np.abs(grey_of(tiff(packed, 32, 16, t258=(12,))).astype(int) - GREY).max() <= 1


def test_sixteen_bits_where_white_is_zero_are_not_shown_as_a_negative() -> None:
    stored = (65_535 - GREY.astype("<u2") * 257).tobytes()
    assert np.array_equal(grey_of(tiff(stored, 32, 16, t258=(16,), t262=(0,))), GREY)


@pytest.mark.parametrize(
    ("numbers", "bits", "sample", "says"),
    [
        (np.full((16, 32), 70_000, "<i4"), 32, 2, "from 70,000 to 70,000"),
        (np.full((16, 32), -5, "<i4"), 32, 2, "from -5 to -5"),
        (np.full((16, 32), -5, "<i2"), 16, 2, "from -5 to -5"),
        (np.full((16, 32), -5, "i1"), 8, 2, "from -5 to -5"),
        (np.full((16, 32), 0.5, "<f4"), 32, 3, "no agreed range; send 8 or 16 bits"),
        (np.full((16, 32), 0.5, "<f8"), 64, 3, "TIFFs of this kind"),
    ],
)
def test_numbers_without_an_agreed_brightness_are_refused(
    numbers: Any, bits: int, sample: int, says: str
) -> None:
    content = tiff(numbers.tobytes(), 32, 16, t258=(bits,), t339=(sample,))
    with pytest.raises(UnsupportedMedia, match=says):
        images.decode_rgb(content)


def test_every_colour_mode_of_tiff_gives_its_colours() -> None:
    red = Image.new("RGB", (16, 8), (255, 0, 0))
    for mode, wanted in (
        ("RGB", (255, 0, 0)), ("RGBA", (255, 0, 0)), ("P", (255, 0, 0)), ("PA", (255, 0, 0)),
        ("CMYK", (255, 0, 0)), ("YCbCr", (254, 0, 0)), ("L", (76, 76, 76)), ("LA", (76, 76, 76)),
        ("1", (0, 0, 0)), ("I;16", (76, 76, 76)),
    ):  # fmt: skip
        image = red.convert(mode) if mode not in ("1", "I;16") else red.convert("L")
        if mode == "I;16":
            image = Image.fromarray(np.full((8, 16), 76 * 257, np.uint16))
        if mode == "1":
            image = Image.new("1", (16, 8), 0)
        pixels = images.decode_rgb(encoded(image, "TIFF"))
        assert pixels.shape == (8, 16, 3), mode
        assert tuple(pixels[4, 8]) == wanted, mode


def test_transparent_tiffs_lie_on_white() -> None:
    for mode, clear in (("LA", (0, 0)), ("RGBA", (9, 9, 9, 0))):
        content = encoded(Image.new(mode, (16, 8), clear), "TIFF")
        assert tuple(images.decode_rgb(content)[4, 8]) == (255, 255, 255), mode


def test_subsampled_ycbcr_without_compression_is_refused_with_a_reason() -> None:
    content = tiff(b"\x80" * 384 * 2, 16, 8, t258=(8, 8, 8), t262=(6,), t277=(3,))
    with pytest.raises(UnsupportedMedia, match="send RGB"):
        images.decode_rgb(content)


def test_a_lab_tiff_is_read_or_refused_without_naming_folders() -> None:
    content = encoded(Image.new("LAB", (16, 8), (255, 128, 128)), "TIFF")
    if features.check("littlecms2"):
        assert images.decode_rgb(content).min() >= 0
    else:
        with pytest.raises(UnsupportedMedia, match="send RGB or grey") as caught:
            images.decode_rgb(content)
        assert "/" not in str(caught.value)


def test_a_tiff_is_read_whatever_its_metadata() -> None:
    for tag, value in ((34665, 7), (34853, 1999), (40965, 3), (282, 0), (305, 0)):
        content = tiff(RGB.tobytes(), 32, 16, **RGB_TAGS, **{f"t{tag}": (value,)})
        assert np.array_equal(images.decode_rgb(content), RGB), tag


def test_a_tiff_lies_as_its_tag_says_whatever_its_xmp() -> None:
    words = struct.unpack("<13H", b'<x tiff:Orientation="6"/>\n')
    content = tiff(RGB.tobytes(), 32, 16, **RGB_TAGS, t700=words)
    content = content.replace(struct.pack("<HHI", 700, 3, 13), struct.pack("<HHI", 700, 1, 26))
    opened = images.open_image(content)
    assert images.upright_size(opened) == images.load_rgb(opened).size == (32, 16)


def test_a_big_tiff_is_one() -> None:
    content = encoded(Image.fromarray(RGB), "TIFF", big_tiff=True)
    assert sniff_image(content) == "image/tiff"
    assert np.array_equal(images.decode_rgb(content), RGB)


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_compressed_tiff_has_its_pixels_or_the_reason_why_not(name: str) -> None:
    content = COMPRESSED[name]
    assert check_file("image", content, 65_536)[1] is None
    if not features.check("libtiff"):
        with pytest.raises(UnsupportedMedia, match="without libtiff; send it uncompressed or as"):
            images.decode_rgb(content)
        return
    pixels = images.decode_rgb(content)
    if name.startswith("group"):
        wanted = np.zeros((8, 16), np.uint8)
        wanted[:, 8:] = 255
        assert np.array_equal(pixels[:, :, 0], wanted)
        return
    upright = RGB if "turned" not in name else np.rot90(RGB, -1)
    assert pixels.shape == upright.shape
    off = np.abs(pixels.astype(int) - upright)
    assert off.max() <= (90 if name.startswith("jpeg") else 0)
    assert np.median(off) <= 3


def test_without_libtiff_the_sentence_names_the_compression_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(images.features, "check", lambda name: name != "libtiff")
    with pytest.raises(UnsupportedMedia, match=r"compressed \(tiff_lzw\).*lanefleet doctor"):
        images.open_image(COMPRESSED["tiff_lzw"])
    assert images.open_image(encoded(Image.fromarray(RGB), "TIFF")).size == (32, 16)


def test_huge_tiles_are_too_large_whatever_their_compression() -> None:
    for compression in (1, 5):
        content = tiff(b"\0" * 99, 8, 8, t259=(compression,), t322=(60_000,), t323=(60_000,))
        with pytest.raises(InputTooLarge, match="tiles have more than"):
            images.open_image(content)


def test_a_compression_that_nobody_knows_is_refused_as_such() -> None:
    with pytest.raises(UnsupportedMedia, match="TIFFs of this kind"):
        images.decode_rgb(tiff(b"\0" * 512, 32, 16, t259=(60_000,)))


# ---------------------------------------------------------------- metadata


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(
        ">I", zlib.crc32(kind + data) if crc is None else crc
    )  # fmt: skip


def png_with(extra: bytes, *, at_end: bool = False) -> bytes:
    whole = encoded(Image.fromarray(RGB))
    at = len(whole) - 12 if at_end else 33
    return whole[:at] + extra + whole[at:]


LONG = b"long" * 500_000
BAD_PNG_METADATA = {
    "text": chunk(b"tEXt", b"Comment\0" + LONG * 40),
    "ztxt": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LONG)),
    "itxt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(LONG)),
    "xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG)),
    "exif-text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(LONG)),
    "exif-text-no-hex": chunk(b"tEXt", b"Raw profile type exif\0exif\n1\n2\nnot hex"),
    "icc": chunk(b"iCCP", b"icc\0\0" + zlib.compress(LONG)),
    "icc-method": chunk(b"iCCP", b"icc\0\7" + b"x" * 20),
    "checksum": chunk(b"tEXt", b"Comment\0hello", crc=7),
    "exif": chunk(b"eXIf", b"\xff" * 50),
    "exif-cut": chunk(b"eXIf", b"II*\0\x08\0\0\0\x09\0"),
    "phys": chunk(b"pHYs", b"\0"),
    "animation": chunk(b"acTL", b"\0"),
    "chromaticity": chunk(b"cHRM", b"\0\1\2"),
}


@pytest.mark.parametrize("name", BAD_PNG_METADATA)
def test_a_png_is_read_whatever_its_metadata(name: str) -> None:
    for at_end in (False, True):
        content = png_with(BAD_PNG_METADATA[name], at_end=at_end)
        opened = images.open_image(content)
        assert images.upright_size(opened) == (32, 16)
        assert np.array_equal(images.load_rgb(opened), RGB)


def test_a_damaged_header_is_still_refused() -> None:
    content = bytearray(encoded(Image.fromarray(RGB)))
    content[content.index(b"IHDR") + 15] ^= 0xFF
    with pytest.raises((InvalidInput, UnsupportedMedia)):
        images.decode_rgb(bytes(content))


def test_a_png_says_how_it_lies_in_any_of_three_ways() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    packed = exif.tobytes()
    xmp = b'<rdf tiff:Orientation="6"/>'
    text = b"\nexif\n%d\n%b" % (len(packed), packed.hex().encode())
    for extra in (
        chunk(b"eXIf", packed.removeprefix(b"Exif\0\0")),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
    ):
        content = png_with(BAD_PNG_METADATA["icc"] + extra)
        assert images.upright_size(images.open_image(content)) == (16, 32)
        assert np.array_equal(images.decode_rgb(content), np.rot90(RGB, -1))


def test_transparency_is_no_metadata() -> None:
    grey = encoded(Image.fromarray(np.full((8, 8), 0x3000, np.uint16)))
    clear = grey[:33] + chunk(b"tRNS", b"\x30\0") + grey[33:]
    assert tuple(images.decode_rgb(grey)[4, 4]) == (0x30, 0x30, 0x30)
    assert tuple(images.decode_rgb(clear)[4, 4]) == (255, 255, 255)


BAD_JPEG_SEGMENTS = {
    "exif": (0xE1, b"Exif\0\0" + b"\xff" * 40),
    "exif-cut": (0xE1, b"Exif\0\0II*\0"),
    "xmp": (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xff"),
    "jfif": (0xE0, b"JFIF\0\1"),
    "icc": (0xE2, b"ICC_PROFILE\0"),
    "mpf": (0xE2, b"MPF\0\xff\xff"),
    "photoshop": (0xED, b"Photoshop 3.0\x008BIM\xff"),
    "adobe": (0xEE, b"Adobe\1"),
}


@pytest.mark.parametrize("name", BAD_JPEG_SEGMENTS)
def test_a_jpeg_is_read_whatever_its_metadata(name: str) -> None:
    marker, data = BAD_JPEG_SEGMENTS[name]
    plain = encoded(Image.fromarray(RGB), "JPEG")
    head = b"\xff\xd8\xff" + bytes((marker,)) + struct.pack(">H", len(data) + 2)
    content = head + data + plain[2:]
    opened = images.open_image(content)
    assert images.upright_size(opened) == (32, 16)
    assert np.array_equal(images.load_rgb(opened), images.decode_rgb(plain))


@pytest.mark.skipif(not features.check("webp"), reason="this Pillow was built without libwebp")
@pytest.mark.parametrize("exif", [b"\xff" * 50, b"Exif\0\0II*\0\x08\0\0\0\x09\0", b"x"])
def test_a_webp_is_read_whatever_its_exif(exif: bytes) -> None:
    content = encoded(Image.fromarray(RGB), "WEBP", lossless=True, exif=exif)
    assert images.upright_size(images.open_image(content)) == (32, 16)
    assert np.array_equal(images.decode_rgb(content), RGB)


def test_what_pillow_says_names_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_image: object) -> None:
        raise OSError("/srv/secret/PIL is missing something")

    opened = images.open_image(encoded(Image.fromarray(RGB)))
    monkeypatch.setattr(type(opened), "load", load)
    with pytest.raises(InvalidInput, match=r"truncated or corrupt: OSError$"):
        images.load_rgb(opened)
