"""The sections make one tree: no field twice, each with a sentence, contradictions refused."""

from __future__ import annotations

from collections import Counter

import pytest

from common.errors import ConfigurationError
from common.settings import JobSettings, RedisSettings, Section, Settings, load_settings

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
