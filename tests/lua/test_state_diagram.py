"""docs/state-machine.md draws what the scripts' headers say, and nothing else."""

from __future__ import annotations

import re

from common.redis.script_text import script_names
from tests.support.moves import DIAGRAM, moves_in_diagram, moves_in_header
from tests.support.stack import ROOT


def test_the_diagram_has_the_arrows_of_the_headers_and_no_others() -> None:
    said = {move for name in script_names() for move in moves_in_header(name)}
    assert moves_in_diagram() == said


def test_the_page_names_every_transition() -> None:
    page, folder = DIAGRAM.read_text(), ROOT / "common" / "redis" / "lua" / "transitions"
    named = {path.stem for path in folder.glob("*.lua")}
    assert named == {name for name in named if re.search(rf"\b{name}\b", page)}
