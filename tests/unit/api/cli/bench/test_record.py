"""A kept run, and what is drawn of one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from api.cli.bench import plot
from api.cli.bench.figures import Stage, Window
from api.cli.bench.record import Record, about_here, check_save
from common.errors import ConfigurationError

STAGES = [
    Stage("m", clients, 2.0, items, 1.0, 2.0, 3.0, 4.0, windows=[Window(items // 2, 1.0, 2.0)] * 2)
    for clients, items in ((1, 20), (8, 100))
]


def test_a_run_is_read_as_it_was_kept(tmp_path: Path) -> None:
    kept = Record(STAGES, about_here(mode="sustained"))
    kept.save(tmp_path / "deep" / "run.json")
    read = Record.load(tmp_path / "deep" / "run.json")
    assert list(read.stages) == STAGES
    assert read.about["mode"] == "sustained"
    assert read.as_dict()["knee_clients"] == 8


@pytest.mark.parametrize("text", ["", "{}", '{"format": 1, "about": {}, "stages": [{}]}', "[]"])
def test_another_file_is_a_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="is no run"):
        Record.load(file)


def test_a_newer_format_and_a_missing_file_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "new.json").write_text('{"format": 2}')
    with pytest.raises(ConfigurationError, match="format 2"):
        Record.load(tmp_path / "new.json")
    with pytest.raises(ConfigurationError, match="No such file"):
        Record.load(tmp_path / "gone.json")


def test_without_matplotlib_a_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match="plot"):
        plot.check_plot(tmp_path / "a.png")
    with pytest.raises(ConfigurationError, match="must end in"):
        plot.check_plot(tmp_path / "a.xls")


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="no matplotlib")
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_is_drawn(tmp_path: Path, number: int) -> None:
    plot.draw(STAGES[:number], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_that_cannot_be_kept_is_told_before_the_load(tmp_path: Path) -> None:
    check_save(tmp_path / "deep" / "run.json")
    assert not (tmp_path / "deep" / "run.json").exists()
    (tmp_path / "file").write_text("kept")
    check_save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"
    for bad in (tmp_path, tmp_path / "file" / "run.json"):
        with pytest.raises(ConfigurationError, match="--save"):
            check_save(bad)
