"""What `lanefleet doctor` tells of this machine, and what it keeps to itself."""

from __future__ import annotations

from pathlib import Path

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


def test_a_settings_source_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "cache_url"
    file.write_text("redis://cache:6380/0")
    monkeypatch.setenv("LANEFLEET_CACHE_REDIS_URL_FILE", str(file))
    monkeypatch.setenv("LANEFLEET_MAX_BACKLOG", "7")
    monkeypatch.setenv("USE_GPU", "false")

    def sources() -> dict[str, str]:
        return {row["name"]: row["source"] for row in _settings_table(Settings())}

    found = sources()
    assert found["LANEFLEET_CACHE_REDIS_URL"] == f"file {file}"
    assert found["LANEFLEET_MAX_BACKLOG"] == "environment"
    assert found["LANEFLEET_USE_GPU"] == "environment"
    assert found["LANEFLEET_RESULT_TTL_SECONDS"] == "default"
    monkeypatch.setenv("LANEFLEET_CACHE_REDIS_URL", "redis://other:6380/0")
    assert sources()["LANEFLEET_CACHE_REDIS_URL"] == "environment", "the plain name wins"


def test_doctor_says_whether_weights_of_a_url_are_there(tmp_path: Path) -> None:
    catalog, digest = tmp_path / "models.yaml", 64 * "a"
    url = "https://mirror.test/m.onnx"
    catalog.write_text(f"models: {{m: {{handler: echo, weights: '{url}#sha256={digest}'}}}}\n")
    settings = Settings(catalog=catalog, state_dir=tmp_path)
    assert doctor._mirrored_weights(settings) == {"m": f"not fetched; the first load fetches {url}"}
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / f".{digest}.part").write_bytes(bytes(2_500_000))
    assert "2.5 MB of it are here" in doctor._mirrored_weights(settings)["m"]
    place = tmp_path / "weights" / f"{digest}.onnx"
    place.touch()
    assert doctor._mirrored_weights(settings) == {"m": f"fetched, {place}"}
