"""Names and ids as people type them, or as an unset variable of their shell leaves them."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from api.cli.main import app, main

JOBS = [["jobs", verb] for verb in ("get", "wait", "result", "events", "cancel", "retry")]
OTHERS = [["models", verb] for verb in ("get", "load", "unload", "warm")]
COMMANDS = [*JOBS, *OTHERS, ["lanes", "reset"], ["dead", "list"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(("word", "why"), [("", "it is empty"), ("\udcff", "it is not UTF-8")])
def test_a_name_that_is_none_is_refused_before_anything_is_asked(
    command: list[str], word: str, why: str
) -> None:
    result = CliRunner().invoke(app, [*command, word])
    assert result.exit_code == 2, result.output
    assert why in result.output


def test_an_option_that_is_no_text_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lanefleet", "jobs", "list", "--model", "\udcff"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "not UTF-8" in capsys.readouterr().err
