"""Weights with NaN in them or cut short, inputs that are none: each tool names them at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigurationError
from common.settings import Settings, load_settings
from tests.support.tiny_models import write_catalog, write_shop

for _name in ("torch", "transformers", "tokenizers", "onnxruntime", "onnxscript"):
    pytest.importorskip(_name)

Broken = Callable[..., str]
TOOLS: dict[str, dict[str, Any]] = {
    "export": {},
    "quantize": {"samples": "texts.txt"},
    "compile": {},
    "prune": {},
    "distill": {"data": "texts.txt", "minutes": 0.01},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import load_file, save_file

    folder = write_shop(tmp_path_factory.mktemp("shop"))
    for name in ("nan", "short"):
        shutil.copytree(folder / "bert", folder / name)
    tensors = load_file(folder / "bert" / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "nan" / "model.safetensors")
    whole = (folder / "bert" / "model.safetensors").read_bytes()
    (folder / "short" / "model.safetensors").write_bytes(whole[:5000])
    entries = {
        name: {"handler": "minilm", "input": "text", "weights": str(folder / name)}
        for name in ("nan", "short", "bert")
    }
    entries["eyes"] = {"handler": "resnet50", "input": "image", "weights": str(folder / "resnet")}
    write_catalog(folder / "models.yaml", entries)
    return folder


@pytest.fixture
def refusal(shop: Path, tmp_path: Path) -> Broken:
    """What a tool says of a model, in the one sentence with which it ends; it leaves nothing."""
    settings: Settings = load_settings(catalog=shop / "models.yaml", state_dir=tmp_path / "state")

    def run(tool: str, model: str, **given: Any) -> str:
        from importlib import import_module

        arguments = {"model": model, "source": model, "target": str(tmp_path / "made" / "it")}
        arguments = {**arguments, **given}
        arguments.pop("source" if tool != "quantize" else "model")
        if tool == "compile":
            del arguments["target"]
        for name in ("samples", "data"):
            if name in arguments:
                arguments[name] = str(shop / arguments[name])
        with pytest.raises(ConfigurationError) as raised:
            import_module(f"worker.tools.{tool}").run(arguments, settings, lambda *_: None)
        assert not [*(tmp_path / "made").glob("*")]
        assert not [*(tmp_path / "state").glob("compiled/*/*")]
        return str(raised.value)

    return run


@pytest.mark.parametrize("tool", TOOLS)
def test_nan_in_the_weights_is_told_before_any_work(refusal: Broken, tool: str) -> None:
    said = refusal(tool, "nan", **TOOLS[tool])
    assert "NaN or infinity in" in said
    assert "nan" in said.partition("NaN")[0], "it names the model"


@pytest.mark.parametrize("tool", TOOLS)
def test_a_file_cut_short_is_told_by_its_name(refusal: Broken, tool: str) -> None:
    said = refusal(tool, "short", **TOOLS[tool])
    assert "short/model.safetensors cannot be read" in said
    assert "get it again" in said


@pytest.mark.parametrize(
    ("tool", "given"),
    [
        ("quantize", {"samples": "mixed"}),
        ("compile", {"samples": "mixed"}),
        ("prune", {"data": "mixed"}),
        ("distill", {"data": "mixed"}),
    ],
)
def test_a_sample_that_is_none_is_told_by_its_file(
    shop: Path, refusal: Broken, tool: str, given: dict[str, Any]
) -> None:
    mixed = shop / "mixed"
    if not mixed.exists():
        mixed.mkdir()
        for number in range(6):
            for path in (shop / "pictures").iterdir():
                bytes_ = path.read_bytes() + bytes(number)  # what follows a PNG is not read
                (mixed / f"{number}-{path.name}").write_bytes(bytes_)
        (mixed / "0-notes.md").write_text("I am no picture")
    said = refusal(tool, "eyes", **given)
    assert f"samples: {mixed / '0-notes.md'} is refused" in said
    assert "take it out or mend it" in said


def test_a_line_that_is_none_is_told_by_its_number(shop: Path, refusal: Broken) -> None:
    lines = [json.dumps(f"red fox {number}") for number in range(60)]
    lines[41] = json.dumps({"no": "text"})
    (shop / "values.jsonl").write_text("\n".join(lines))
    said = refusal("quantize", "bert", samples="values.jsonl")
    assert f"{shop / 'values.jsonl'}:42 is refused" in said
