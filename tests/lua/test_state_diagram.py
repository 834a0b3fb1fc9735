"""docs/state-machine.md draws what the scripts' headers say, and nothing else."""

from __future__ import annotations

import re

from common.redis.scripts import script_names
from tests.support.moves import DIAGRAM, moves_in_diagram, moves_in_header


def test_the_diagram_has_the_arrows_of_the_headers_and_no_others() -> None:
    said = {move for name in script_names() for move in moves_in_header(name)}
    assert moves_in_diagram() == said


def test_the_page_names_every_transition() -> None:
    page = DIAGRAM.read_text()
    assert not [name for name in script_names() if not _moves_jobs(name) and name in page]
    transitions = DIAGRAM.parents[1] / "common" / "redis" / "lua" / "transitions"
    named = {path.stem for path in transitions.glob("*.lua")}
    assert {name for name in named if re.search(rf"\b{name}\b", page)} == named


def _moves_jobs(name: str) -> bool:
    transitions = DIAGRAM.parents[1] / "common" / "redis" / "lua" / "transitions"
    return (transitions / f"{name}.lua").is_file()
