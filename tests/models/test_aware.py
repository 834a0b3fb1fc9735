"""`lanefleet quantize --aware`: weights that were taught what int8 does to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from common.settings import load_settings
from tests.support.tiny_models import write_catalog, write_shop
from worker.tools.training.loop import Plan
from worker.tools.training.models import opened

for _name in ("torch", "transformers", "tokenizers"):
    pytest.importorskip(_name)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and inputs."""
    return write_shop(tmp_path_factory.mktemp("shop"), layers=2)


def spec_of(shop: Path, name: str) -> ModelSpec:
    handler, kind = {"bert": ("minilm", "text"), "resnet": ("resnet50", "image")}[name]
    return ModelSpec.model_validate(
        {"name": name, "handler": handler, "input": kind, "weights": str(shop / name)}
    )


def test_rounding_is_that_of_eight_bits_and_ends_with_the_block() -> None:
    import torch

    from worker.tools.aware import as_in_int8

    layer = torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.004], [254.0, 1.0]]))
        layer.bias.zero_()
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    with as_in_int8(layer):
        found = layer(inputs)
        found.sum().backward()
    # A row each has 127 steps: 0.004 of 1 is half a step of 1/127, 1 of 254 half a step of 2.
    torch.testing.assert_close(found.T, torch.tensor([[1.0, 1 / 127], [254.0, 0.0]]))
    assert layer.weight.grad is not None
    assert bool((layer.weight.grad == 1).all())  # as if nothing was rounded
    torch.testing.assert_close(layer(inputs).T, layer.weight.detach())


def test_what_was_taught_agrees_more_once_rounded_and_loads(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.tools import aware

    # Four bits: eight cost a network as small as this nothing.
    monkeypatch.setattr(aware, "_INT8", 7)
    monkeypatch.setattr(aware, "_UINT8", 15)
    spec = spec_of(shop, "bert")
    plan = Plan(minutes=1e3, learning_rate=1e-3, steps=30)
    began, became = aware.teach_int8(
        spec, opened(spec), str(shop / "texts.txt"), tmp_path, plan, lambda *_: None
    )
    assert began.mean < became.mean < 0.9999
    taught = opened(spec, tmp_path)
    (output,) = taught.infer([taught.decode("redfox", {})])  # type: ignore[misc]
    assert taught.encode(output)["dimensions"] == 32


def test_a_classifier_is_taught_too(shop: Path, tmp_path: Path) -> None:
    from worker.tools.aware import teach_int8

    spec = spec_of(shop, "resnet")
    teach_int8(
        spec, opened(spec), str(shop / "pictures"), tmp_path, Plan(1e3, 4, steps=1), lambda *_: None
    )
    taught = opened(spec, tmp_path)
    item = taught.decode((shop / "pictures" / "0.png").read_bytes(), {})
    assert len(taught.encode(taught.infer([item])[0])["labels"]) == 5  # type: ignore[index]


@pytest.mark.parametrize(
    ("model", "data", "sentence"),
    [("bert", "nowhere", "there is no .*nowhere"), ("resnet", "texts.txt", "at least 2")],
)
def test_data_that_cannot_be_used_is_one_sentence(
    shop: Path, tmp_path: Path, model: str, data: str, sentence: str
) -> None:
    from worker.tools.aware import teach_int8

    spec = spec_of(shop, model)
    with pytest.raises(ConfigurationError, match=sentence):
        teach_int8(spec, opened(spec), str(shop / data), tmp_path, Plan(1.0), lambda *_: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_quantize_judges_taught_weights_against_those_before(shop: Path, tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    from worker.tools import quantize

    entry: dict[str, Any] = spec_of(shop, "bert").model_dump(exclude_unset=True, exclude={"name"})
    settings = load_settings(catalog=write_catalog(shop / "models.yaml", {"bert": entry}))
    given = {"source": "bert", "target": str(tmp_path / "int8"), "tolerance": 0.5}
    given |= {"samples": str(shop / "texts.txt"), "aware": str(shop / "texts.txt")}
    given |= {"minutes": 0.01, "backends": ["onnx"]}
    report = quantize.run(given, settings, lambda *_: None)
    assert any(note.startswith("taught int8") for note in report.notes)
    assert report.rows
    assert not list(tmp_path.glob(".int8.quantizing"))
