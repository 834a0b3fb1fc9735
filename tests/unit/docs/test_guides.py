"""What the guides name exists: options, metrics, catalog fields, and the entries of commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from api.cli import stages
from api.cli.guides import SYMPTOMS, TUNING
from common.catalog import ModelSpec
from common.metrics.table import METRICS
from common.worker_report import WorkerReport
from tests.unit.docs.test_pages import ROOT, _anchors

NAMES = json.loads((ROOT / "tests" / "data" / "public_names.json").read_text(encoding="utf-8"))
GUIDES = [ROOT / "docs" / name for name in ("troubleshooting.md", "tuning.md", "bench.md")]
ASKED_FOR = (
    *("high-latency", "low-throughput", "cuda-out-of-memory", "host-memory-grows"),
    *("gpu-under-80-percent-busy", "slow-requests", "429-503-and-refused-connections"),
    "no-gain-after-tuning",
)
CALL = re.compile(r"(?:`|^ {4})lanefleet ([a-z]+(?: [a-z]+)?)([^`\n#]*)", re.MULTILINE)
METRIC = re.compile(r"`((?:lanefleet_|process_|inference_|predictions_)[a-z_]+)`")
CATALOG_FIELD = re.compile(r"`((?:max|target|run|memory|load|warm|cache|cold|result)_[a-z_]+)`")
NOT_OF_THE_CATALOG = {"max_rss_mb"}


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_commands_point_to_entries_that_are_there(symptom: str) -> None:
    page, _, anchor = SYMPTOMS[symptom].partition("#")
    assert anchor in _anchors(ROOT / page)


def test_every_symptom_has_an_entry_with_what_comes_next() -> None:
    text = GUIDES[0].read_text(encoding="utf-8")
    assert set(ASKED_FOR) <= _anchors(GUIDES[0])
    assert {one.partition("#")[2] for one in SYMPTOMS.values()} == set(ASKED_FOR)
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        assert "lanefleet " in body, f"{title} names no command"
        assert "LANEFLEET_" in body or "`max_" in body, f"{title} names no setting"
        assert "Next" in body or "| next |" in body, f"{title} does not say what next"
    assert (ROOT / TUNING).exists()


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_options_that_a_guide_names_beside_a_command_exist(page: Path) -> None:
    wrong = []
    for words, rest in CALL.findall(page.read_text(encoding="utf-8")):
        known = NAMES["commands"].get(f"lanefleet {words}")
        if known is None:
            known = NAMES["commands"].get(f"lanefleet {words.split()[0]}", [])
        options = {word for one in known for word in one.split()}
        wrong += [f"{words} {one}" for one in re.findall(r"--[a-z-]+", rest) if one not in options]
    assert wrong == []


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_metrics_that_a_guide_names_are_declared(page: Path) -> None:
    declared = {name for one in METRICS for name in (one.name, one.stem)}
    named = set(METRIC.findall(page.read_text(encoding="utf-8")))
    assert {
        one for one in named if re.sub(r"_(sum|count|bucket)$", "", one) not in declared
    } == set()


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_fields_that_a_guide_names_are_the_catalogs(page: Path) -> None:
    named = set(CATALOG_FIELD.findall(page.read_text(encoding="utf-8")))
    assert named - NOT_OF_THE_CATALOG <= set(ModelSpec.model_fields)


def test_causes_of_idleness_in_the_guide_are_those_that_stages_knows() -> None:
    text = GUIDES[0].read_text(encoding="utf-8").partition("## GPU under 80")[2]
    rows = set(re.findall(r"^\| `(\w+)`", text.partition("\n## ")[0], re.MULTILINE))
    assert rows == {*stages._ADVICE, "no_work"}


@pytest.mark.parametrize(
    ("busy", "decoding", "no_work", "entry"),
    [
        (0.0, 0.0, 10.0, None),
        (9.5, 0.5, 0.0, "low-throughput"),
        (3.0, 7.0, 0.0, "gpu-under-80-percent-busy"),
    ],
)
def test_stages_goes_on_to_the_entry_of_what_it_found(
    busy: float, decoding: float, no_work: float, entry: str | None
) -> None:
    times = {
        "seconds": busy + decoding + no_work,
        "busy": busy,
        "idle": {"decoding": decoding, "no_work": no_work},
    }
    found = stages.entry_of(WorkerReport.of({"worker": "w", "device_time": times}))
    assert (found or "").partition("#")[2] == (entry or "")
