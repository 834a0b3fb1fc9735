"""A tool's report in a pipe: nothing of its table is cut."""

from __future__ import annotations

import pytest

from api.cli.tools import show_report


def test_a_table_in_a_pipe_has_whole_words(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "model": "classify",
        "backend": "torch:compiled",
        "precision": "fp32",
        "weights MB": 18.8,
        "ratio": 1.25,
        "measure": "min cosine",
        "agreement": 0.99999,
        "samples": 220,
        "verdict": "not compiled",
    }
    show_report({"tool": "check", "model": "classify", "rows": [row]})
    said = capsys.readouterr().out
    assert all(name in said for name in row)
    assert all(str(value) in said for value in row.values())
