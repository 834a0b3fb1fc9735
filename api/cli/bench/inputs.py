"""The requests that a bench sends: each with an input of its own.

Equal inputs would be answered by the cache, or share one run with others under way, and say
nothing of the fleet. So a text gets words of its own and an image a comment of its own: the bytes
differ, the work does not. `--repeat-inputs` sends inputs as they are, again and again.
"""

from __future__ import annotations

import random
import secrets
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from struct import pack
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from common.errors import ConfigurationError

IMAGE_TYPES = {
    **{".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"},
    **{".gif": "image/gif", ".bmp": "image/bmp", ".tif": "image/tiff", ".tiff": "image/tiff"},
}
_SEED = 15
_SHORTEST, _LONGEST = 3, 60
_PAD_BYTES = 900
_WORDS = tuple(
    word
    for line in (
        "river table window morning yellow engine letter garden winter silver market bridge candle",
        "forest harbor island jacket kitchen ladder mirror needle orange pencil quarter railway",
        "saddle ticket umbrella valley wagon anchor basket cotton dinner elbow farmer glass hammer",
        "insect jungle kettle lemon meadow notice ocean paper quiet rabbit shadow timber uncle",
        "village water young slowly carries opens between under against because measures finds the",
        "a of and with before after some every another brings turns keeps into near",
    )
    for word in line.split()
)

Make = Callable[[int], bytes]
"""The bytes of request number n."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and what each says besides its input."""

    host: str
    """As in the Host header."""
    root: str
    """The path in front of `/v1`, where a proxy publishes the API below one."""
    model: str
    kind: str
    """What the model takes: text, image or json."""
    headers: dict[str, str]
    wait_seconds: int
    params: dict[str, Any] | None = None

    def post(self, path: str, content_type: str, body: bytes) -> bytes:
        """The bytes of one request on a kept connection."""
        lines = [
            f"POST {self.root}{path} HTTP/1.1",
            f"Host: {self.host}",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
            f"Prefer: wait={self.wait_seconds}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body

    def get(self, path: str) -> bytes:
        """The bytes of one GET."""
        names = [f"Host: {self.host}", *(f"{key}: {value}" for key, value in self.headers.items())]
        return (f"GET {path} HTTP/1.1\r\n" + "\r\n".join(names) + "\r\n\r\n").encode()


@dataclass(frozen=True, slots=True)
class Given:
    """Inputs as they were named on the command line; empty for inputs of our own."""

    texts: Sequence[str] = ()
    images: Sequence[Path] = ()

    @classmethod
    def read(
        cls, texts: Sequence[str], images: Sequence[Path], folder: Path | None, kind: str
    ) -> Given:
        """Those for a model that takes `kind`; raises ConfigurationError with what to do."""
        found_texts, found_images = list(texts), list(images)
        if folder is not None:
            files = sorted(one for one in _files(folder) if one.is_file())
            found_images += [one for one in files if one.suffix.lower() in IMAGE_TYPES]
            for one in files:
                if one.suffix.lower() in (".txt", ".json", ".jsonl", ".ndjson"):
                    found_texts += _lines(one)
        if kind == "image" and not found_images and (texts or folder):
            raise ConfigurationError("the model takes images: give --image, or a --folder of them")
        if kind != "image" and not found_texts and (images or folder):
            raise ConfigurationError(
                f"the model takes {kind}: give --text, or a --folder with .txt files, a line each"
            )
        return cls(found_texts, found_images)


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as exc:
        raise ConfigurationError(f"--folder {folder}: {exc.strerror or exc}") from exc


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{file} is no text in UTF-8: {exc}") from exc
    return [line for line in text.splitlines() if line.strip()]


def requests(target: Target, given: Given, *, repeat: bool, nonce: str = "") -> Iterator[bytes]:
    """Requests without an end, no two alike unless `repeat`. nonce tells runs apart."""
    nonce = nonce or secrets.token_hex(4)
    make = {"text": _texts, "image": _images}.get(target.kind, _documents)
    each = make(target, given, nonce, repeat)
    return (each(number) for number in count())


def _texts(target: Target, given: Given, nonce: str, repeat: bool) -> Make:
    lengths = random.Random(_SEED)  # noqa: S311 - the same lengths in every run
    words = random.Random(_SEED if repeat else nonce)  # noqa: S311 - not the same words
    own = [lengths.randint(_SHORTEST, _LONGEST) for _ in range(4096)]
    texts = given.texts or [_sentence(words, length) for length in own[:256]]

    def make(number: int) -> bytes:
        if repeat:
            text = texts[number % len(texts)]
        elif given.texts:
            text = f"{texts[number % len(texts)]} {nonce} {number:x}"
        else:
            text = _sentence(words, own[number % len(own)])
        return _json_job(target, text)

    return make


def _sentence(chance: random.Random, length: int) -> str:
    return " ".join(chance.choices(_WORDS, k=length))


def _documents(target: Target, given: Given, nonce: str, repeat: bool) -> Make:
    values: list[Any] = [_document(text) for text in given.texts]
    values = values or [{"pad": "x" * _PAD_BYTES}]
    if not repeat and not all(isinstance(one, dict | str) for one in values):
        raise ConfigurationError(
            "only JSON objects and strings can be made distinct, by a member `bench` or a word "
            "more; give such, or --repeat-inputs"
        )

    def make(number: int) -> bytes:
        value = values[number % len(values)]
        if not repeat:
            mark = f"{nonce} {number:x}"
            value = {**value, "bench": mark} if isinstance(value, dict) else f"{value} {mark}"
        return _json_job(target, value)

    return make


def _document(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _json_job(target: Target, value: Any) -> bytes:
    job: dict[str, Any] = {"model": target.model, "input": value}
    if target.params:
        job["params"] = target.params
    return target.post("/v1/jobs", "application/json", orjson.dumps(job))


def _images(target: Target, given: Given, nonce: str, repeat: bool) -> Make:
    files = list(given.images) or example_images()
    try:
        pictures = [(_type_of(file), file.read_bytes()) for file in files]
    except OSError as exc:
        raise ConfigurationError(f"--image {exc.filename}: {exc.strerror or exc}") from exc
    query = {"model": target.model}
    if target.params:
        query["params"] = orjson.dumps(target.params).decode()
    path = f"/v1/jobs?{urlencode(query, quote_via=quote)}"

    def make(number: int) -> bytes:
        content_type, content = pictures[number % len(pictures)]
        if not repeat:
            content = with_comment(content, f"{nonce} {number:x}".encode())
        return target.post(path, content_type, content)

    return make


def _type_of(file: Path) -> str:
    return IMAGE_TYPES.get(file.suffix.lower(), "application/octet-stream")


def example_images() -> list[Path]:
    """The checkout's own photo; raises ConfigurationError where it is not there."""
    file = Path(__file__).resolve().parents[3] / "deploy" / "demo" / "rocket.jpg"
    if not file.is_file():
        raise ConfigurationError("there is no example image here: give --image FILE or --folder")
    return [file]


def with_comment(content: bytes, comment: bytes) -> bytes:
    """The same picture in other bytes; comment is ASCII of at most 60,000 bytes.

    A JPEG gets a comment segment and a PNG a text chunk; behind others' ends nobody reads.
    """
    if content.startswith(b"\xff\xd8"):
        return content[:2] + b"\xff\xfe" + pack(">H", len(comment) + 2) + comment + content[2:]
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        body = b"tEXtComment\0" + comment
        chunk = pack(">I", len(body) - 4) + body + pack(">I", zlib.crc32(body))
        return content[:33] + chunk + content[33:]  # behind the header chunk
    return content + comment
