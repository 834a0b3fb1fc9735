"""An action has one name over HTTP, in the client and in commands: docs/api.md lists them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from api.client import AsyncClient, Client

ROOT = Path(__file__).parents[3]
NAMES = json.loads((ROOT / "tests" / "data" / "public_names.json").read_text(encoding="utf-8"))
INFERENCE = {
    *("classify", "detect", "embed"),
    *("create_chat_completion", "create_completion", "create_embeddings"),
}
"""Routes that answer with results; the client and the command line use jobs."""


def _table() -> list[list[list[str]]]:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    section = text.partition("## One name for an action")[2]
    rows = re.findall(r"^\| (`.*) \| (.*) \| ?(.*)\|$", section, re.MULTILINE)
    return [[re.findall(r"`([^`]+)`", cell) for cell in row] for row in rows]


def test_every_operation_has_a_row() -> None:
    listed = [name for row in _table() for name in row[0]]
    wanted = {name for name, path in NAMES["operations"].items() if " /v1/" in path} - INFERENCE
    assert sorted(listed) == sorted(wanted)


@pytest.mark.parametrize("row", _table(), ids=lambda row: row[0][0])
def test_a_row_names_what_exists_under_one_name(row: list[list[str]]) -> None:
    operations, methods, commands = row
    for method in methods:
        assert callable(getattr(Client, method))
        assert callable(getattr(AsyncClient, method))
    assert set(commands) <= set(NAMES["commands"])
    verbs = {command.split()[-1] for command in commands}
    (operation, *more) = operations
    if verbs and not more and operation != "ask_of_model":
        assert verbs & set(operation.split("_")), (operation, verbs)
        assert any(set(method.split("_")) & set(operation.split("_")) for method in methods)


def test_every_command_of_the_api_has_a_row() -> None:
    groups = ("jobs", "models", "lanes", "workers", "dead", "outbox", "system")
    known = {name for name in NAMES["commands"] if name.split()[1] in groups}
    listed = {name for row in _table() for name in row[2]}
    assert known - listed == {"lanefleet models reset"}  # an older name
