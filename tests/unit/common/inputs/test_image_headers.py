import io
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from common.errors import InputTooLarge, InvalidInput
from common.inputs.checks import IMAGE_TYPES, check_input, materialize, sniff_image
from common.inputs.image_headers import frames_beyond, size_of
from tests.support.abuse import long_gif, pixel_bomb

WEBP = [("WEBP", {}), ("WEBP", {"lossless": True})] if features.check("webp") else []


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("GIF", {}), ("BMP", {}), *WEBP],
)
@pytest.mark.parametrize("size", [(1, 1), (300, 7), (64, 1000)])
def test_a_header_tells_the_size_that_pillow_finds(
    kind: str, options: dict[str, bool], size: tuple[int, int]
) -> None:
    stream = io.BytesIO()
    Image.new("RGB", size, (9, 99, 200)).save(stream, kind, **options)
    payload = stream.getvalue()
    assert size_of(payload, sniff_image(payload) or "") == size


@given(st.sampled_from(sorted(IMAGE_TYPES)), st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail(media_type: str, payload: bytes) -> None:
    size_of(payload, media_type)
    frames_beyond(payload)


def test_a_gif_of_some_frames_is_taken_and_one_of_ten_thousand_is_not() -> None:
    assert not frames_beyond(long_gif(900))
    assert frames_beyond(long_gif(10_000))


def test_blocks_without_end_are_given_up() -> None:
    head = long_gif(1)[:13]
    assert frames_beyond(head[:10] + b"\0" + head[11:] + b"\x21\xfe\0" * 200_000)


@pytest.mark.parametrize(
    "blocks",
    [b"\x2c" + b"\0" * 9 + b"\x08" + b"\1\0" * 5_000_000, b"\x21\xfe" + b"\1\0" * 300_000 + b"\0;"],
    ids=["picture", "comment"],
)
def test_sub_blocks_without_end_are_given_up(blocks: bytes) -> None:
    steps = CountedSteps(long_gif(1)[:10] + b"\0\0\0" + blocks)
    assert frames_beyond(steps)
    assert steps.taken < 300_000


def test_sub_blocks_of_a_large_gif_are_counted_to_the_end() -> None:
    picture = b"\x2c" + b"\0" * 9 + b"\x08" + (b"\xff" + b"\0" * 255) * 100_000 + b"\0;"
    assert not frames_beyond(long_gif(1)[:10] + b"\0\0\0" + picture)


class CountedSteps(bytes):
    """Bytes that count how often one of them is looked at."""

    taken = 0

    def __getitem__(self, at: Any) -> Any:
        self.taken += 1
        return super().__getitem__(at)


@pytest.mark.parametrize(
    "written",
    [
        lambda text: text,
        lambda text: "data:image/png;base64," + text,
        lambda text: "DATA:image/PNG;BASE64," + text,
        lambda text: "\n data:image/png;base64," + text,
        lambda text: "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: " ".join(text.replace("+", "-").replace("/", "_").rstrip("=")),
    ],
    ids=["plain", "data", "DATA", "indented", "lines", "unpadded", "urlsafe", "all"],
)
def test_base64_is_read_as_it_is_written_anywhere(written: Callable[[str], str]) -> None:
    stream = io.BytesIO()
    Image.effect_noise((40, 30), 90).save(stream, "PNG")
    payload = stream.getvalue() + b"\xfb\xff"
    payload += b"\0" * (-(len(payload) + 1) % 3)  # so that it is padded
    text = written(b64encode(payload).decode())
    assert b64encode(payload).decode().endswith("=")
    for value in (text, {"image": text}):
        assert check_input("image", value, 10**6)[0] == {"image": b64encode(payload).decode()}
        assert materialize("image", value, None) == payload


@pytest.mark.parametrize("text", ["%%%", "aGVsbG8=aGVsbG8=", "a", "é", "data:image/png;base64,&"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="not valid base64"):
        check_input("image", text, 10**6)


@pytest.mark.parametrize("payload", [pixel_bomb(), long_gif()])
def test_the_front_refuses_what_no_worker_would_decode(payload: bytes) -> None:
    with pytest.raises(InputTooLarge, match="send"):
        check_input("image", {"image": b64encode(payload).decode()}, 65_536)
