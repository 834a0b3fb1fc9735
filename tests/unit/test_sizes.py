"""No file of the product is longer than the style allows."""

from __future__ import annotations

from tests.support.stack import ROOT

MOST_LINES = 350


def test_no_file_is_long() -> None:
    files = [path for name in ("api", "common", "worker") for path in (ROOT / name).rglob("*.py")]
    assert len(files) > 300
    lengths = {str(path): len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}
