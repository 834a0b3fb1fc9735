"""Reads a form with one file as it arrives, and stores the file a part at a time.

Starlette's own parser keeps files on disk until the request's end; a file of 200 MB would be
written twice, and a full disk would fail all other uploads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.http.problems import Problem
from common.batches.files import PART_BYTES, Files

_MOST_FIELDS = 20
_FIELD_BYTES = 8 * 1024
_HEADER_BYTES = 8 * 1024
_FORM_BYTES = 64 * 1024
"""Of a form beside its file."""


@dataclass(slots=True)
class Upload:
    """What a form brought."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    """None where there was no file."""
    bytes: int = 0


class _Form:
    """The parser's callbacks: fields are collected, the file's bytes wait to be stored."""

    def __init__(self) -> None:
        self.upload = Upload()
        self.content = bytearray()
        self._header = [bytearray(), bytearray()]
        self._name = ""
        self._value = bytearray()
        self._in_file = False
        self.ended = False

    def callbacks(self) -> Any:
        """By the parser's names."""
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": lambda: None,
            "on_end": self._all_ended,
        }

    def _begin(self) -> None:
        self._name, self._in_file = "", False
        self._value.clear()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._extend_header(0, data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._extend_header(1, data[start:end])

    def _extend_header(self, which: int, piece: bytes) -> None:
        self._header[which] += piece
        if len(self._header[which]) > _HEADER_BYTES:
            raise Problem(400, "invalid_multipart", "a header in the form is too long")

    def _header_end(self) -> None:
        name, value = bytes(self._header[0]).lower(), bytes(self._header[1])
        self._header = [bytearray(), bytearray()]
        if name != b"content-disposition":
            return
        _, options = parse_options_header(value)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options:
            return
        if self._name != "file" or self.upload.filename is not None:
            raise Problem(400, "invalid_multipart", "send one file, in a part named `file`")
        self._in_file = True
        self.upload.filename = options[b"filename"].decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self.content += data[start:end]
            self.upload.bytes += end - start
            return
        self._value += data[start:end]
        if len(self._value) > _FIELD_BYTES:
            raise Problem(400, "invalid_multipart", f"`{self._name[:80]}`: the field is too long")

    def _end(self) -> None:
        if self._in_file:
            return
        if len(self.upload.fields) >= _MOST_FIELDS:
            raise Problem(400, "invalid_multipart", f"more than {_MOST_FIELDS} fields")
        self.upload.fields[self._name] = self._value.decode("utf-8", "replace")

    def _all_ended(self) -> None:
        self.ended = True


def declared_bytes(request: Request) -> int:
    """How large the file is at least, by the length of the request; 0 where it does not say."""
    declared = request.headers.get("content-length", "")
    return max(0, int(declared) - _FORM_BYTES) if declared.isdecimal() else 0


async def receive_file(request: Request, files: Files, file_id: str, max_bytes: int) -> Upload:
    """Store the file of this form under the id, invisible yet; returns what else it brought.

    Raises 4xx problems, RedisError or InputStoreUnavailable; then some parts may be stored.
    """
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if media_type != b"multipart/form-data" or not boundary:
        detail = "send multipart/form-data with the fields `purpose` and `file`"
        raise Problem(415, "unsupported_content_type", detail)
    if declared_bytes(request) > max_bytes:
        raise _too_large(max_bytes)
    form, received = _Form(), 0
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in request.stream():
            received += len(chunk)
            if received > max_bytes + _FORM_BYTES:  # with what stands before, beside and after it
                raise _too_large(max_bytes)
            parser.write(chunk)
            if form.upload.bytes > max_bytes:
                raise _too_large(max_bytes)
            if len(form.content) >= PART_BYTES:
                await _store(files, file_id, form)
        parser.finalize()
    except MultipartParseError as exc:
        raise Problem(400, "invalid_multipart", f"the form cannot be read: {exc}") from exc
    if not form.ended:
        raise Problem(400, "invalid_multipart", "the form ended before its last boundary")
    if form.content:
        await _store(files, file_id, form)
    return form.upload


async def _store(files: Files, file_id: str, form: _Form) -> None:
    content = bytes(form.content)
    form.content.clear()
    await files.append(file_id, content)


def _too_large(max_bytes: int) -> Problem:
    detail = f"the file is larger than {max_bytes} bytes (LANEFLEET_FILE_MAX_BYTES); split it"
    return Problem(413, "file_too_large", detail)
