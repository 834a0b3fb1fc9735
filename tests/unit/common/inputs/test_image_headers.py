import io
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from common.errors import InputTooLarge
from common.inputs.checks import IMAGE_TYPES, check_input, sniff_image
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


@pytest.mark.parametrize("payload", [pixel_bomb(), long_gif()])
def test_the_front_refuses_what_no_worker_would_decode(payload: bytes) -> None:
    with pytest.raises(InputTooLarge, match="send"):
        check_input("image", {"image": b64encode(payload).decode()}, 65_536)
