"""Which bytes a request asks for."""

from __future__ import annotations

import pytest

from api.batches.ranges import UnsatisfiableError, span_of


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (None, None),
        ("bytes=0-4", (0, 5)),
        ("bytes=3-", (3, 10)),
        ("bytes=-4", (6, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=9-99", (9, 10)),
        ("bytes = 9 - 9", (9, 10)),
        ("bytes=5-4", None),
        ("bytes=0-1,4-5", None),
        ("bytes=-", None),
        ("lines=0-1", None),
        ("bytes=" + "9" * 400 + "-", None),
        ("bytes=\u0660-\u0664", None),
    ],
)
def test_a_range_is_one_span_or_the_whole(asked: str | None, found: object) -> None:
    assert span_of(asked, None, '"a"', 10) == found


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_bytes_that_are_not_there_are_none(asked: str) -> None:
    with pytest.raises(UnsatisfiableError):
        span_of(asked, None, '"a"', 10)


def test_the_rest_of_another_file_is_not_sent() -> None:
    assert span_of("bytes=3-", '"b"', '"a"', 10) is None
    assert span_of("bytes=3-", '"a"', '"a"', 10) == (3, 10)
