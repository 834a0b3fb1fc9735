"""The names that people type or import are compared with one snapshot.

A move inside the tree must not change them, and a new one is added on purpose:

    python -m tests.unit.test_public_names

writes `tests/data/public_names.json` anew; the diff then shows a reviewer what changed
for whoever uses Lanefleet.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest
import typer.main
from fastapi.routing import APIRoute

from api.app import create_app
from api.cli import app as command_line
from common.metrics.table import METRICS
from common.settings import ENV_PREFIX, Settings
from common.settings.secret_files import SUFFIX, secret_fields

ROOT = Path(__file__).parents[2]
SNAPSHOT = ROOT / "tests" / "data" / "public_names.json"
MODULES = (
    "api.client",
    "common.catalog",
    "common.errors",
    "worker.models.base",
    "worker.models.params",
    "worker.models.weights",
    "worker.transfer",
)


def _defined_in(module: ModuleType) -> Iterator[str]:
    """The public names that the module's own text defines; what it imports is not its own."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (name.id for name in node.targets if isinstance(name, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def _members(value: object) -> Iterator[str]:
    """What a class offers, inherited names of our own classes included."""
    if not isinstance(value, type):
        return
    for base in value.__mro__:
        if base.__module__.split(".")[0] in ("api", "common", "worker"):
            yield from (name for name in vars(base) if not name.startswith("_"))
            yield from getattr(base, "__annotations__", ())


def module_names(name: str) -> list[str]:
    module = importlib.import_module(name)
    public = set(getattr(module, "__all__", None) or _defined_in(module))
    names = {each for each in public if not each.startswith("_")}
    members = {
        f"{each}.{member}"
        for each in names
        for member in _members(getattr(module, each))
        if not member.startswith("_")
    }
    return sorted(names | members)


def commands() -> dict[str, list[str]]:
    """Every command with its arguments and options."""

    def walk(command: object, path: str) -> Iterator[tuple[str, list[str]]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield path, sorted(_options(getattr(command, "params", ())))
            return
        for name, each in inner.items():
            yield from walk(each, f"{path} {name}")

    return dict(sorted(walk(typer.main.get_command(command_line), "lanefleet")))


def _options(parameters: Iterable[object]) -> Iterator[str]:
    for each in parameters:
        spelled = [*getattr(each, "opts", ()), *getattr(each, "secondary_opts", ())]
        is_option = getattr(each, "param_type_name", "") == "option"
        yield " ".join(spelled) if is_option else str(getattr(each, "name", "")).upper()


def operations() -> dict[str, str]:
    """Operation ids with method and path, those of routes outside the document as well."""
    settings = Settings(catalog=ROOT / "deploy" / "models.yaml")
    app = create_app(settings, "redis://127.0.0.1:1/0")
    found: dict[str, str] = {}
    for path, item in app.openapi()["paths"].items():
        for method, operation in item.items():
            if isinstance(operation, dict) and "operationId" in operation:
                found[operation["operationId"]] = f"{method.upper()} {path}"
    for route in app.routes:
        if isinstance(route, APIRoute) and not route.include_in_schema:
            found[f"(undocumented) {route.name}"] = (
                f"{'|'.join(sorted(route.methods))} {route.path}"
            )
    return dict(sorted(found.items()))


def settings() -> dict[str, str]:
    """Each field with the environment names that set it."""
    found, secrets = {}, set(secret_fields(Settings))
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        choices = getattr(alias, "choices", [alias] if isinstance(alias, str) else [])
        spelled = [str(each) for each in choices] or [(ENV_PREFIX + name).upper()]
        if name in secrets:
            spelled.append(f"{(ENV_PREFIX + name).upper()}{SUFFIX}")
        found[name] = " ".join(spelled)
    return dict(sorted(found.items()))


def metrics() -> dict[str, str]:
    """Names, without `_total`, and kinds."""
    return {metric.stem: metric.kind for metric in sorted(METRICS, key=attrgetter("stem"))}


def broker() -> dict[str, object]:
    """What a Celery client of ours names: the application and its tasks."""
    with patch.dict(os.environ, {f"{ENV_PREFIX}REDIS_URL": "redis://127.0.0.1:1/0"}):
        app = importlib.import_module("common.broker").app
    return {
        "app": f"{type(app).__name__}({app.main!r})",
        "tasks": sorted(each for each in app.tasks if not each.startswith("celery.")),
    }


def public_names() -> dict[str, object]:
    return {
        "broker": broker(),
        "commands": commands(),
        "metrics": metrics(),
        "modules": {name: module_names(name) for name in MODULES},
        "operations": operations(),
        "settings": settings(),
    }


def _text(names: dict[str, object]) -> str:
    return json.dumps(names, indent=1, sort_keys=True) + "\n"


@pytest.mark.parametrize(
    "part", ["broker", "commands", "metrics", "modules", "operations", "settings"]
)
def test_the_public_names_are_those_of_the_snapshot(part: str) -> None:
    recorded = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert public_names()[part] == recorded[part], (
        "a public name changed; when that is meant: python -m tests.unit.test_public_names"
    )


def test_the_snapshot_is_written_in_its_own_order() -> None:
    text = SNAPSHOT.read_text(encoding="utf-8")
    assert text == _text(json.loads(text))


if __name__ == "__main__":
    SNAPSHOT.write_text(_text(public_names()), encoding="utf-8")
