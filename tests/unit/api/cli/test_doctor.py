"""What `lanefleet doctor` tells of this machine."""

from __future__ import annotations

import pytest

from api.cli import doctor


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
