"""`lanefleet new` writes a model that passes its own check, and changes nothing else."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import get_args

import pytest

from api.cli.new import new
from api.cli.new_entry import add_entry
from api.cli.new_handler import KINDS, Names, entry_of, handler_of, text_of_test
from common.catalog import InputKind, Target, load_catalog
from common.errors import ConfigurationError

CATALOG = """\
# What we serve.
models:
    # kept for the old clients
    echo: {handler: echo}   # no model at all

    other:
        handler: echo
        # the end of other

# Names for clients.
aliases:
    latest: other
"""
ENTRY = "praise:\n  handler: praise:Praise   # beside\n  input: text\n"


def test_an_entry_is_added_and_every_line_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(CATALOG)
    path.chmod(0o640)
    add_entry(path, "praise", ENTRY)
    text = path.read_text()
    left = iter(text.splitlines())
    assert all(line in left for line in CATALOG.splitlines())
    assert load_catalog(path).models["praise"].input == "text"
    assert load_catalog(path).aliases == {"latest": Target({"other": 1.0})}
    assert path.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in tmp_path.iterdir()] == ["models.yaml"]


def test_line_ends_and_links_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "models.yaml"
    real.write_bytes(CATALOG.replace("\n", "\r\n").encode())
    link.symlink_to(real)
    add_entry(link, "praise", ENTRY)
    assert link.is_symlink()
    assert b"\n" not in real.read_bytes().replace(b"\r\n", b"")
    assert "praise" in load_catalog(real).models


@pytest.mark.parametrize(
    "text",
    ["models: {echo: {handler: echo}}\n", '"models":\n  echo: {handler: echo}\n'],
)
def test_a_form_that_takes_no_line_is_left_alone_and_the_entry_shown(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="add it yourself:\n  praise:"):
        add_entry(path, "praise", ENTRY)
    assert path.read_text() == text
    assert [one.name for one in tmp_path.iterdir()] == ["models.yaml"]


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(CATALOG)
    for name in ("echo", "latest"):
        with pytest.raises(ConfigurationError, match="choose another name"):
            add_entry(path, name, ENTRY)
    assert path.read_text() == CATALOG


@pytest.mark.parametrize("name", ["null", "no", "on", "true"])
def test_a_word_of_yaml_is_a_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(CATALOG)
    add_entry(path, name, entry_of(Names(name, name, name.capitalize()), "text"))
    assert load_catalog(path).models[name].handler == f"{name}:{name.capitalize()}"


def test_a_place_that_cannot_be_written_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LANEFLEET_CATALOG", str(tmp_path / "file" / "models.yaml"))
    with pytest.raises(ConfigurationError, match=r"cannot be written: .*LANEFLEET_CATALOG"):
        new("praise")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", [one for one in KINDS if one in get_args(InputKind)])
def test_what_is_written_passes_its_own_test(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "image":
        pytest.importorskip("PIL")
    names = Names("my-model", "my_model", "MyModel")
    (tmp_path / "my_model.py").write_text(handler_of(names, kind))
    (tmp_path / "test_my_model.py").write_text(text_of_test(names, kind, "models.yaml"))
    add_entry(tmp_path / "models.yaml", "my-model", entry_of(names, kind))
    assert len(handler_of(names, kind).splitlines()) <= 40
    monkeypatch.syspath_prepend(tmp_path)
    try:
        test = importlib.import_module("test_my_model")
        test.test_an_input_has_the_same_result_alone_and_in_a_batch()
    finally:
        for name in ("my_model", "test_my_model"):
            sys.modules.pop(name, None)
