"""The sections make one tree: no field twice, each with a sentence, contradictions refused."""

from __future__ import annotations

from collections import Counter

import pytest

from common.errors import ConfigurationError
from common.settings import ENV_PREFIX, JobSettings, RedisSettings, Section, Settings, load_settings

SECTIONS = Section.__subclasses__()


def test_every_section_is_part_of_the_whole() -> None:
    assert set(SECTIONS) == set(Settings.__bases__)


def test_no_field_stands_in_two_sections() -> None:
    declared = Counter(name for section in SECTIONS for name in section.model_fields)
    assert set(declared.values()) == {1}
    assert declared.keys() == Settings.model_fields.keys()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_field_has_a_sentence(name: str) -> None:
    assert (Settings.model_fields[name].description or "").endswith(".")


def test_a_section_reads_its_own_part_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANEFLEET_SENTINEL_MASTER", "other")
    monkeypatch.setenv("LANEFLEET_PORT", "not a number, and not its own")
    assert RedisSettings().sentinel_master == "other"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"renew_seconds": 20, "lease_seconds": 30}, "renew_seconds (20.0) must be at most half"),
        ({"breaker_open_seconds": 500}, "breaker_open_seconds (500.0) must not exceed"),
        ({"port": -1}, "LANEFLEET_PORT: "),
    ],
)
def test_what_cannot_be_is_refused_with_one_line(overrides: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**overrides)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_section_alone_refuses_what_the_whole_refuses() -> None:
    with pytest.raises(ValueError, match="renew_seconds"):
        JobSettings(renew_seconds=20, lease_seconds=30)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("LANEFLEET_REDIS_ULR", "did you mean LANEFLEET_REDIS_URL?"),
        ("LANEFLEET_MAX_ATEMPTS", "did you mean LANEFLEET_MAX_ATTEMPTS?"),
        ("LANEFLEET_XQJ", "correct or unset it"),
        ("LANEFLEET_PROT", "LANEFLEET_PORT"),
    ],
)
def test_a_name_that_is_no_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"{name} is not a setting of this version; ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_others_set_are_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "LANEFLEET_URL": "http://127.0.0.1:8000",
        "LANEFLEET_API_KEY": "k",
        "LANEFLEET_TORCH_INDEX": "",
        "LANEFLEET_API_SERVICE_HOST": "10.0.0.7",
        "LANEFLEET_API_SERVICE_PORT": "8000",
        "LANEFLEET_API_SERVICE_PORT_HTTP": "8000",
        "LANEFLEET_API_PORT": "tcp://10.0.0.7:8000",
        "LANEFLEET_API_PORT_8000_TCP": "tcp://10.0.0.7:8000",
        "LANEFLEET_API_PORT_8000_TCP_ADDR": "10.0.0.7",
        "USE_GPU": "false",
    }.items():
        monkeypatch.setenv(name, value)
    assert load_settings().use_gpu is False


_NUMBERS = [name for name, one in Settings.model_fields.items() if one.annotation is float]


@pytest.mark.parametrize("name", _NUMBERS)
@pytest.mark.parametrize("value", ["inf", "nan", "1e400"])
def test_no_number_is_without_an_end(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}{name.upper()}", value)
    with pytest.raises(ConfigurationError, match=name.upper()):
        load_settings()
