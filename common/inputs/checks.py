"""Checks a job's input, and converts it between its wire form and the model's.

Both sides use it: the front refuses inputs that are recognizably invalid before anything is
queued, the worker converts them to the argument of `decode`. An image or a recording is sent as
base64 in the message, or, when large, as raw bytes under the job's blob key with a reference in the
message.
An input that a worker fetched from a URL is treated as such bytes.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import orjson

from common.catalog import InputKind
from common.errors import (
    InputTooLarge,
    InputUrlRefused,
    InvalidInput,
    UnsupportedMedia,
    UrlRefused,
)
from common.inputs.image_headers import MAX_FRAMES, MAX_PIXELS, frames_beyond, size_of
from common.net.addresses import parse_target

BLOB_REFERENCE = {"$blob": True}
"""Replaces the input in the message where it is stored under the job's blob key."""

IMAGE_FORMATS = "PNG, JPEG, WebP, GIF, BMP or TIFF"
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"II+\x00", "image/tiff"),  # BigTIFF
    (b"MM\x00+", "image/tiff"),
)

_URL_SAFE = bytes.maketrans(b"-_", b"+/")

IMAGE_TYPES = frozenset(kind for _, kind in _MAGIC) | {"image/webp"}


AUDIO_FORMATS = "WAV, FLAC, Ogg, MP3 or AIFF"
_AUDIO_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    # MPEG 1, 2 and 2.5 (8 to 12 kHz), layer 3, with a checksum and without.
    *((bytes((0xFF, second)), "audio/mpeg") for second in (0xFA, 0xFB, 0xF2, 0xF3, 0xE2, 0xE3)),
)
_CHUNKED = {(b"RIFF", b"WAVE"): "audio/wav", (b"RF64", b"WAVE"): "audio/wav"} | {
    (b"FORM", form): "audio/aiff" for form in (b"AIFF", b"AIFC")
}
FILE_KINDS: frozenset[InputKind] = frozenset(("image", "audio"))
"""Kinds of input that are a file's bytes."""


def sniff_audio(payload: bytes) -> str | None:
    """The media type by the first bytes, or None when it is not a known audio format."""
    if kind := _CHUNKED.get((payload[:4], payload[8:12])):
        return kind
    return next((kind for magic, kind in _AUDIO_MAGIC if payload.startswith(magic)), None)


def sniff_image(payload: bytes) -> str | None:
    """The media type by the first bytes, or None when it is not a known image format."""
    if payload[:4] == b"RIFF" and payload[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if payload.startswith(magic)), None)


def check_input(
    kind: InputKind, value: Any, inline_bytes: int, sent_bytes: int = 0
) -> tuple[Any, bytes | None]:
    """Check an input from JSON; returns the value for the message, and the blob or None.

    sent_bytes is the length of the text that contained it: the JSON in a short one need not be
    measured. Raises InvalidInput or UnsupportedMedia with what to send instead.
    """
    if kind in FILE_KINDS:
        return check_file(kind, _file_bytes(kind, value), inline_bytes)
    if kind == "text":
        if not isinstance(value, str):
            raise InvalidInput(
                f'this model takes text: "input" must be a string, not {_json_type(value)}'
            )
        payload = value.encode("utf-8", "surrogatepass")
        return (BLOB_REFERENCE, payload) if len(payload) > inline_bytes else (value, None)
    if sent_bytes > inline_bytes and len(payload := orjson.dumps(value)) > inline_bytes:
        return BLOB_REFERENCE, payload
    if value == BLOB_REFERENCE:
        raise InvalidInput(f"an input cannot be {BLOB_REFERENCE}, which means something here")
    return value, None


def check_input_url(url: str) -> str:
    """Check the form of an input's URL; raises InputUrlRefused with what to send instead."""
    try:
        parse_target(url)
    except UrlRefused as exc:
        raise InputUrlRefused(f"`input_url`: {exc}") from None
    return url


def check_file(kind: InputKind, payload: bytes, inline_bytes: int) -> tuple[Any, bytes | None]:
    """Check a file's bytes; returns the value for the message, and the blob or None.

    Raises UnsupportedMedia when the bytes are not an image, or a recording, that workers read, and
    InputTooLarge for one that no worker would decode.
    """
    if kind == "audio":
        if sniff_audio(payload) is None:
            raise UnsupportedMedia(
                f"the {len(payload)} bytes sent are not audio that this fleet reads; "
                f"send {AUDIO_FORMATS}"
            )
    elif (media_type := sniff_image(payload)) is not None:
        _check_pixels(payload, media_type)
    else:
        raise UnsupportedMedia(
            f"the {len(payload)} bytes sent are not an image that this fleet reads; "
            f"send {IMAGE_FORMATS}"
        )
    if len(payload) > inline_bytes:
        return BLOB_REFERENCE, payload
    return {kind: b64encode(payload).decode()}, None


def _check_pixels(payload: bytes, media_type: str) -> None:
    width, height = size_of(payload, media_type) or (0, 0)
    if width * height > MAX_PIXELS:
        raise InputTooLarge(
            f"the image is {width} x {height}, more than the {MAX_PIXELS:,} pixels "
            "allowed here; send a smaller one"
        )
    if media_type == "image/gif" and frames_beyond(payload):
        raise InputTooLarge(
            f"the GIF has more than {MAX_FRAMES:,} frames, or its data in many more blocks than it "
            "needs; only the first would be looked at, so send that one"
        )


def materialize(kind: InputKind, value: Any, blob: bytes | None) -> Any:
    """The argument of `decode`: str for text, bytes for an image or audio, else the JSON value.

    Raises InvalidInput, because any Celery client may have written the message.
    """
    if value == BLOB_REFERENCE:
        if blob is None:
            raise InvalidInput("the input was sent by reference but is no longer stored")
        return _read_blob(kind, blob)
    if kind in FILE_KINDS:
        return _file_bytes(kind, value)
    if kind == "text" and not isinstance(value, str):
        raise InvalidInput(
            f"this model takes text: input must be a string, not {_json_type(value)}"
        )
    return value


def _read_blob(kind: InputKind, blob: bytes) -> Any:
    if kind in FILE_KINDS:
        return blob
    try:
        return blob.decode("utf-8", "surrogatepass") if kind == "text" else orjson.loads(blob)
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"this model takes text, and the input is not UTF-8: {exc}") from exc
    except orjson.JSONDecodeError as exc:
        raise InvalidInput(f"this model takes JSON, and the input is none: {exc}") from exc


def _file_bytes(kind: InputKind, value: Any) -> bytes:
    encoded = value.get(kind) if isinstance(value, dict) else value
    if not isinstance(encoded, str):
        what = "an image" if kind == "image" else "audio"
        raise InvalidInput(
            f'this model takes {what}: "input" must be {{"{kind}": "<base64>"}}, '
            "or send the file as multipart/form-data"
        )
    if encoded[:64].lstrip()[:5].lower() == "data:":
        encoded = encoded.partition(",")[2]
    try:
        return b64decode(encoded, validate=True)
    except ValueError:
        pass
    try:
        # What mailers, browsers and URLs make of it: lines, the other two letters, no padding.
        # As bytes: splitting a text of blanks would make an object for each.
        plain = encoded.encode("ascii").translate(_URL_SAFE, b" \t\r\n\v\f").rstrip(b"=")
        return b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except ValueError as exc:
        raise InvalidInput(f'"input.{kind}" is not valid base64: {exc}') from exc


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", list: "an array"}
    return names.get(type(value), "an object")
