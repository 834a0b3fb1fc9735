"""What `lanefleet doctor` tells of this machine, and what it keeps to itself."""

from __future__ import annotations

import pytest

from api.cli import doctor
from api.cli.doctor import _settings_table
from common.settings import Settings


@pytest.mark.parametrize("there", [True, False])
def test_doctor_looks_for_libtiff(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    from PIL import features

    monkeypatch.setattr(features, "check", lambda name: there and name == "libtiff")
    assert doctor._image_library().endswith(", libtiff") == there
    missing = doctor._missing_images()
    assert missing == (
        {}
        if there
        else {"libtiff, for compressed TIFFs": "apt-get install libtiff-dev, then make setup"}
    )


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
