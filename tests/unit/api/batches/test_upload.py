"""A form that is read as it arrives takes no more memory, and no longer, than it may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, cast

import pytest

from api.batches.shapes import page_of
from api.batches.upload import Upload, receive_file
from api.http.problems import Problem

HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
PURPOSE = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
MOST = 100_000


class Sent:
    """A request with this body."""

    def __init__(self, pieces: Iterable[bytes], **headers: str) -> None:
        self.headers = {"content-type": "multipart/form-data; boundary=b", **headers}
        self.pieces, self.taken = iter(pieces), 0

    async def stream(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            self.taken += len(piece)
            yield piece


class Store:
    """Keeps parts."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    async def append(self, _file_id: str, content: bytes) -> None:
        self.parts.append(content)


def receive(sent: Sent) -> tuple[Upload, bytes]:
    store = Store()
    upload = asyncio.run(receive_file(cast("Any", sent), cast("Any", store), "file-1", MOST))
    return upload, b"".join(store.parts)


def endless(before: bytes, piece: bytes) -> Iterable[bytes]:
    yield before
    for _ in range(1_000):
        yield piece


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        (b"--b\r\n", b"X" * 1_000),
        (b"--b\r\nX: ", b"y" * 1_000),
        (PURPOSE, b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\n1\r\n" * 20),
        (HEAD + b"{}\r\n--b--\r\n", b"epilogue" * 125),
        (b"", b"preamble" * 125),
        (HEAD, b"x" * 1_000),
    ],
    ids=["a header's name", "a header", "fields", "epilogue", "preamble", "file"],
)
def test_a_form_without_an_end_is_refused(before: bytes, piece: bytes) -> None:
    sent = Sent(endless(before, piece))
    with pytest.raises(Problem) as caught:
        receive(sent)
    assert caught.value.status in (400, 413)
    assert sent.taken < MOST + 100_000


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (b'filename="in.jsonl"', "in.jsonl"),
        (b'filename="../../etc/passwd"', "../../etc/passwd"),
        (b'filename="a\x00b\xff"', "a\x00b\ufffd"),
        ('filename="Bücher.jsonl"'.encode(), "Bücher.jsonl"),
        (b'filename=""', ""),
    ],
)
def test_a_name_is_kept_as_it_is_and_never_used_as_a_path(name: bytes, found: str) -> None:
    form = b'--b\r\nContent-Disposition: form-data; name="file"; ' + name
    upload, content = receive(Sent([PURPOSE + form + b"\r\n\r\n{}\n\r\n--b--\r\n"]))
    assert (upload.filename, content, upload.fields) == (found, b"{}\n", {"purpose": "batch"})


def test_a_form_may_come_a_byte_at_a_time() -> None:
    whole = PURPOSE + HEAD + b"--b\r\n\r\n{}\r\n--b--\r\n"
    upload, content = receive(Sent(whole[at : at + 1] for at in range(len(whole))))
    assert content == b"--b\r\n\r\n{}", "a boundary stands behind a line's end"
    assert upload.bytes == len(content)


def test_a_page_passes_by_what_is_gone() -> None:
    async def read(ids: Any) -> list[Any]:
        return [one for one in ids if int(one) >= 25]

    ids = [str(number) for number in range(30)]
    page = asyncio.run(page_of(ids, None, 4, read))
    assert page == (["25", "26", "27", "28"], True)
    assert asyncio.run(page_of(ids, "28", 4, read)) == (["29"], False)
