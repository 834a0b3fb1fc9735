"""`lanefleet doctor` shows no credentials."""

from __future__ import annotations

import pytest

from api.cli.doctor import _settings_table
from common.settings import Settings


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://key:secret@bucket/prefix", "s3://********@bucket/prefix"),
        (
            "s3://bucket/p?aws_secret_access_key=abc&region=eu",
            "s3://bucket/p?aws_secret_access_key=********&region=********",
        ),
        ("file:///shared/inputs", "file:///shared/inputs"),
    ],
)
def test_urls_are_shown_without_logins(url: str, shown: str) -> None:
    rows = {row["name"]: row["value"] for row in _settings_table(Settings(blob_url=url))}
    assert rows["LANEFLEET_BLOB_URL"] == shown
