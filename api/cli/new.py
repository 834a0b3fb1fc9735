"""`lanefleet new`: a handler to start from, its catalog entry and its test."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console

from api.cli.new_entry import add_entry
from api.cli.new_handler import KINDS, Names, entry_of, handler_of, text_of_test
from api.cli.options import named
from common.catalog import NAME_PATTERN, InputKind
from common.errors import ConfigurationError

out = Console()
Kind = StrEnum("Kind", {one: one for one in KINDS})  # type: ignore[misc]  # from a table
_TEXT = Kind("text")


def new(
    name: Annotated[str, typer.Argument(help="The model's name, such as praise.", callback=named)],
    kind: Annotated[Kind, typer.Option("--input", help="What a job's input is.")] = _TEXT,
) -> None:
    """Write a handler of 20 lines beside the catalog, add its entry there, write its test."""
    from api.cli.main import settings_for_checkout

    if kind not in get_args(InputKind):
        raise ConfigurationError(
            f"--input {kind}: this version knows {', '.join(get_args(InputKind))}"
        )
    catalog = settings_for_checkout().catalog
    names = _names_of(name, catalog.parent)
    module, test = (catalog.parent / f"{one}.py" for one in (names.module, f"test_{names.module}"))
    texts = {module: handler_of(names, kind), test: text_of_test(names, kind, catalog.name)}
    _write_all(texts, catalog, names, kind)
    out.print(f"{module}\n{test}\n{catalog}: models.{names.model}", soft_wrap=True)
    out.print(
        f"next: lanefleet check {names.model}; python -m pytest {test}; lanefleet up",
        soft_wrap=True,
    )


def _names_of(name: str, folder: Path) -> Names:
    if not NAME_PATTERN.match(name):
        raise ConfigurationError(f"{name!r} is no name of a model: 1-64 of a-z 0-9 . _ -")
    module = re.sub(r"\W", "_", name.partition("@")[0])
    if module[0].isdigit() or keyword.iskeyword(module):
        raise ConfigurationError(
            f"{module!r} is no name that Python imports; begin with a letter, such as my-{name}"
        )
    for path in (folder / f"{module}.py", folder / f"test_{module}.py"):
        if path.exists():
            raise ConfigurationError(f"{path} is there already; choose another name")
    if module in sys.stdlib_module_names or find_spec(module) is not None:
        raise ConfigurationError(
            f"there is a Python package {module!r} already, which would be imported in place of "
            f"yours; choose another name, such as my-{name}"
        )
    return Names(name, module, "".join(part.capitalize() for part in module.split("_")))


def _write_all(texts: Mapping[Path, str], catalog: Path, names: Names, kind: str) -> None:
    """All of them, or none."""
    written: list[Path] = []
    try:
        catalog.parent.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with path.open("x", encoding="utf-8") as stream:
                written.append(path)
                stream.write(text)
        add_entry(catalog, names.model, entry_of(names, kind))
    except BaseException as exc:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(exc, OSError):
            raise ConfigurationError(
                f"{exc.filename or catalog} cannot be written: {exc.strerror}; make it writable, "
                "or name another catalog by LANEFLEET_CATALOG"
            ) from exc
        raise
