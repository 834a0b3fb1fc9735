"""Secrets in files: NAME_FILE names a file that holds the value of NAME."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ConfigurationError
from common.settings import RedisSettings, Settings, load_settings
from common.settings.secret_files import secret_fields

URL = "redis://api:s3cret@redis:6379/0"


@pytest.fixture
def url_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("LANEFLEET_REDIS_URL", raising=False)
    path = tmp_path / "url"
    monkeypatch.setenv("LANEFLEET_REDIS_URL_FILE", str(path))
    return path


def test_a_secret_is_read_from_its_file_without_the_newline(url_file: Path) -> None:
    url_file.write_text(f"{URL}\n")
    for settings in (load_settings(), RedisSettings()):
        assert settings.redis_url is not None
        assert settings.redis_url.get_secret_value() == URL


def test_the_plain_name_wins_so_that_a_process_can_hand_on_what_it_read(
    url_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url_file.write_text(URL)
    monkeypatch.setenv("LANEFLEET_REDIS_URL", "redis://other:6379/0")
    settings = load_settings()
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "redis://other:6379/0"


def test_a_file_that_is_not_there_is_refused_with_its_name(url_file: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "LANEFLEET_REDIS_URL_FILE" in str(caught.value)
    assert str(url_file) in str(caught.value)


def test_an_empty_file_is_refused(url_file: Path) -> None:
    url_file.write_text("\n")
    with pytest.raises(ConfigurationError, match=r"LANEFLEET_REDIS_URL_FILE: .* is empty"):
        load_settings()


def test_a_wrong_value_is_refused_without_being_shown(url_file: Path) -> None:
    url_file.write_text("ftp://user:hunter2@host")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "LANEFLEET_REDIS_URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_only_secrets_have_such_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set(secret_fields(Settings))
    assert {"redis_url", "cache_redis_url", "sentinel_password"} <= found
    assert "port" not in found
    monkeypatch.setenv("LANEFLEET_PORT_FILE", "/nowhere")
    with pytest.raises(ConfigurationError, match="LANEFLEET_PORT_FILE is not a setting"):
        load_settings()
