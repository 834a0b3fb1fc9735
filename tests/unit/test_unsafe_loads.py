"""No file of the tree loads what may run code: pickles, unsafe YAML, unrestricted torch files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("api", "common", "worker", "deploy")
BANNED_MODULES = frozenset(
    ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
)
"""In the product. A test may pickle an object of its own to see that it survives."""
LOADERS = frozenset(("load", "read_pickle", "import_module"))
UNSAFE_YAML = frozenset(
    [
        "load",
        "load_all",
        "unsafe_load",
        "unsafe_load_all",
        "full_load",
        "full_load_all",
        "Loader",
        "UnsafeLoader",
        "FullLoader",
        "CLoader",
        "CUnsafeLoader",
        "CFullLoader",
    ]
)


def unsafe(source: str, *, product: bool) -> Iterator[str]:
    """What the source loads unsafely, as line and name."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import | ast.ImportFrom) and product:
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            yield from (f"{line} {name}" for name in names if name.split(".")[0] in BANNED_MODULES)
        if isinstance(node, ast.ImportFrom) and node.module in ("yaml", "torch"):
            wrong = UNSAFE_YAML if node.module == "yaml" else frozenset(("load",))
            yield from (f"{line} {one.name}" for one in node.names if one.name in wrong)
        if isinstance(node, ast.Attribute) and node.attr in UNSAFE_YAML:
            yield from (f"{line} {one}" for one in (ast.unparse(node),) if one.startswith("yaml."))
        if isinstance(node, ast.Call):
            yield from (f"{line} {found}" for found in unsafe_call(node))


def unsafe_call(call: ast.Call) -> Iterator[str]:
    given = {word.arg: word.value for word in call.keywords}
    last = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if not given and last not in LOADERS:
        return
    name = ast.unparse(call.func)

    def says(argument: str, wanted: bool) -> bool:
        value = given.get(argument)
        return isinstance(value, ast.Constant) and value.value is wanted

    if name == "torch.load" and not says("weights_only", True):
        yield "torch.load without weights_only=True"
    if "weights_only" in given and not says("weights_only", True):
        yield "weights_only that is not True"
    if "allow_pickle" in given and not says("allow_pickle", False):
        yield "allow_pickle that is not False"
    if last == "read_pickle":
        yield name
    if last == "import_module" and any(
        isinstance(one, ast.Constant) and one.value in BANNED_MODULES for one in call.args
    ):
        yield name


@cache
def files() -> list[str]:
    folders = (*PRODUCT, "tests")
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(str(path.relative_to(ROOT)) for path in paths)


@pytest.mark.parametrize("folder", [*PRODUCT, "tests"])
def test_nothing_is_loaded_that_may_run_code(folder: str) -> None:
    own = [name for name in files() if name.startswith(f"{folder}/")]
    assert own
    found = [
        f"{name}:{one}"
        for name in own
        for one in unsafe((ROOT / name).read_text(encoding="utf-8"), product=folder in PRODUCT)
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import os, cloudpickle as safe",
        "import yaml\nyaml.load(text, yaml.SafeLoader)",
        "import yaml\nyaml.unsafe_load(text)",
        "from yaml import FullLoader",
        "class Mine(yaml.Loader): ...",
        "import torch\ntorch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "numpy.load(path, allow_pickle=True)",
        "importlib.import_module('pickle')",
        "pandas.read_pickle(path)",
        "Model.from_pretrained(path, weights_only=False)",
    ],
)
def test_the_ban_sees_it(source: str) -> None:
    assert list(unsafe(source, product=True))


def test_the_ban_lets_the_safe_forms_be() -> None:
    source = """
import yaml
yaml.safe_load(text)
class Mine(yaml.SafeLoader): ...
torch.load(path, weights_only=True)
numpy.load(path, allow_pickle=False)
json.load(file)
"""
    assert list(unsafe(source, product=True)) == []
    assert list(unsafe("import pickle", product=False)) == []
