"""What a receiver's Retry-After says, whatever it sends."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from worker.courier.webhook_sender import retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("-5", None),
        ("1e9", None),
        ("soon", None),
        ("", None),
        ("9" * 400, 999_999_999_999.0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_it_is_seconds_or_a_date_or_nothing(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_a_date_is_counted_from_now() -> None:
    value = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    found = retry_after(value)
    assert found is not None
    assert 3_500 < found <= 3_600 + time.get_clock_info("time").resolution
