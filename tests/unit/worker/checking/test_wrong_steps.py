"""The first wrong step of a model's author gets one sentence, with their line and the contract."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.catalog import ModelSpec
from common.settings import Settings
from worker.checking.examining import examine
from worker.checking.fault import Fault
from worker.checking.verbs import Watch
from worker.models.weights import set_base

RIGHT = '''\
"""A model with nothing wrong."""


class Right:
    def load(self, spec, device):
        self.scale = 2

    def decode(self, value, params):
        return value.split()

    def cost(self, item):
        return len(item)

    def infer(self, items):
        return [self.scale * len(item) for item in items]

    def encode(self, output):
        return {"words": output}

    def example(self):
        return "a few words"
'''
INFER = "        return [self.scale * len(item) for item in items]\n"

WRONG = {
    "too few outputs": (INFER, "        return [1 for item in items][1:]\n", "right.py:15: "),
    "a dict": (
        INFER,
        "        return dict(enumerate(items))\n",
        "right.py:15: `infer` returned a dict",
    ),
    "nothing": (INFER, "        pass\n", "right.py:15: `infer` returned a NoneType"),
    "one number": (INFER, "        return 1\n", "right.py:15: `infer` returned a int"),
    "NaN": ('{"words": output}', 'float("nan")', "right.py:18: encode returned no JSON"),
    "a set": ('{"words": output}', "{output}", "right.py:18: encode returned no JSON"),
    "an exception": (
        INFER,
        INFER.replace("len(item)", "item[99]"),
        "right.py:15: infer raised Ind",
    ),
    "an exit": ("self.scale = 2", "raise SystemExit(1)", "right.py:6: load raised SystemExit"),
    "a missing package": (
        "self.scale = 2",
        "import no_such_package",
        "right.py:6: load raised Mod",
    ),
    "in decode": ("value.split()", "value.spilt()", "right.py:9: decode raised AttributeError"),
    "a cost that is none": ("return len(item)", "return None", "right.py:12: cost returned None"),
    "a negative cost": ("return len(item)", "return -1", "right.py:12: cost returned -1"),
    "a missing verb": ("def cost", "def costs", "has no cost; a handler has load"),
    "too few arguments": ("value, params", "value", "decode(value) cannot be called as decode(va"),
    "a typo of the class": ("class Right", "class Rihgt", "has no class Right (did you mean 'Rihg"),
    "at import": (
        '"""A model with nothing wrong."""',
        "1 / 0",
        "ZeroDivisionError('division by zer",
    ),
    "no Python": ("class Right:", "class Right", "SyntaxError: expected ':' (right.py:4)"),
    "a sight of others": (
        INFER,
        "        return [len(items)] * len(items)\n",
        "right.py:14: an item's",
    ),
    "the order": (
        INFER,
        "        return sorted(map(len, items))\n",
        "differs from its result alone",
    ),
    "chance": ("self.scale * len", "__import__('random').random() * len", "the second time"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The catalog's; what is imported from it is forgotten at the end."""
    set_base(tmp_path)
    before = list(sys.path)
    yield tmp_path
    set_base(Path())
    sys.path[:] = before
    sys.modules.pop("right", None)
    sys.path_importer_cache.pop(str(tmp_path), None)


def check(text: str, folder: Path, **keys: Any) -> dict[str, Any]:
    (folder / "right.py").write_text(text)
    spec = ModelSpec(name="m", handler="right:Right", input="text", max_batch=8, **keys)
    watch = Watch(lambda _line: None, lambda _verb: 60.0)
    return examine(spec, Settings(), watch, "cpu", 0.01)


def test_a_right_model_passes(folder: Path) -> None:
    found = check(RIGHT, folder)
    assert found["repeatable"]
    assert found["batch_difference"] == 0
    assert found["inputs"] == "1 example, 4 made up"
    assert found["rows"][0]["batch"] == 1
    assert found["advice"]["max_batch"] <= 8


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_step_is_named(wrong: str, folder: Path) -> None:
    before, after, sentence = WRONG[wrong]
    assert before in RIGHT
    text = RIGHT.replace(before, after)
    keys = {"cache_seconds": 60} if wrong == "chance" else {}
    with pytest.raises(Fault) as caught:
        check(text, folder, **keys)
    said = caught.value.sentence()
    assert sentence in said
    assert "\n" not in said
    assert str(folder) not in said


def test_where_there_is_no_input_the_author_is_told_what_to_give(folder: Path) -> None:
    refuses = "from common.errors import InvalidInput\n\n\n" + RIGHT.replace(
        "        return value.split()", "        raise InvalidInput('send a letter')"
    )
    with pytest.raises(Fault, match=r"decode refuses the model's own example: send a letter"):
        check(refuses, folder)
    without = refuses.replace("def example", "def sample")
    (folder / "right.py").unlink()
    sys.modules.pop("right")
    importlib.invalidate_caches()
    with pytest.raises(Fault, match=r"give it `example\(\)`, or its catalog entry `warm_up:`"):
        check(without, folder)


def test_the_contract_is_named_with_its_page(folder: Path) -> None:
    with pytest.raises(Fault) as caught:
        check(RIGHT.replace(INFER, "        return self.weights\n"), folder)
    said = caught.value.sentence()
    assert "`infer(items)` returns a list of one output for each item, in order" in said
    assert "docs/models.md#writing-your-own-model" in said


def test_a_module_that_is_not_there_is_told_with_the_one_that_was_meant(folder: Path) -> None:
    (folder / "right.py").write_text(RIGHT)
    spec = ModelSpec(name="m", handler="rihgt:Right", input="text")
    with pytest.raises(Fault, match=r"no module 'rihgt'.*did you mean 'right'"):
        examine(spec, Settings(), Watch(lambda _l: None, lambda _v: 60.0), "cpu", 0.01)
