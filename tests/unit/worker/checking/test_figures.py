"""What a check makes of its figures: advice, likeness, verdicts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from common.settings import Settings
from worker.checking.gate import Gate
from worker.checking.likeness import difference
from worker.checking.reference import differs, mode_of, reference_of
from worker.checking.speed import Pace, advise
from worker.checking.verdicts import Verdict, Verdicts, key_of


def paces(*items_per_second: float) -> list[Pace]:
    return [Pace(2**at, pace, 1.0, 1000 * 2**at / pace) for at, pace in enumerate(items_per_second)]


def spec(**keys: Any) -> ModelSpec:
    return ModelSpec(**{"name": "m", "handler": "minilm", "precision": "bf16", **keys})


def verdict(**fields: Any) -> Verdict:
    about = {"measure": "min cosine", "agreement": 0.98, "mean": 0.99, "samples": 40, "ratio": 1.4}
    return Verdict("m", "torch bf16", **{**about, "reference": "torch fp32", **fields})


def test_the_smallest_batch_that_is_as_good_is_advised() -> None:
    advice = advise(paces(100, 190, 300, 305, 290))
    assert advice["max_batch"] == 4
    assert advice["max_wait_ms"] == pytest.approx(13)


def test_where_batches_bring_nothing_nobody_waits() -> None:
    advice = advise(paces(100, 101, 99))
    assert (advice["max_batch"], advice["max_wait_ms"]) == (1, 0)


def test_a_batch_longer_than_the_latency_that_is_wanted_is_not_advised() -> None:
    assert advise(paces(100, 190, 300), target_latency_ms=11)["max_batch"] == 2


@pytest.mark.parametrize(
    ("left", "right", "apart"),
    [
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0]}, 0.0),
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.002]}, 0.001),
        ({"a": 1}, {"b": 1}, math.inf),
        ([1, 2], [1], math.inf),
        ("cat", "dog", math.inf),
        (True, True, 0.0),
        (0.0, 0, 0.0),
    ],
)
def test_results_differ_by_a_share_of_their_largest_number(
    left: Any, right: Any, apart: float
) -> None:
    assert difference(left, right) == pytest.approx(apart, rel=0.01)


def test_a_verdict_below_the_tolerance_refuses_with_its_figure() -> None:
    assert "min cosine 0.9800" in verdict().refusal(spec())
    assert verdict().refusal(spec(tolerance=0.97)) == ""
    assert verdict(agreement=0.995).refusal(spec()) == ""
    assert "tolerance 0.95" in verdict(measure="top-1", agreement=0.9).refusal(spec())
    assert verdict(trouble="no samples").refusal(spec()) == ""


def test_a_mode_that_is_slower_than_fp32_is_warned_of() -> None:
    assert "0.13x the speed of torch fp32" in verdict(ratio=0.13).warning()
    assert verdict().warning() == ""
    assert "is not known: no weights" in verdict(trouble="no weights").warning()


def test_a_verdict_is_kept_whole_and_what_is_broken_is_none(tmp_path: Path) -> None:
    kept = Verdicts(tmp_path / "verdicts")
    assert kept.read("k") is None
    kept.write("k", verdict())
    found = kept.read("k")
    assert found is not None
    assert found.agreement == 0.98
    (tmp_path / "verdicts" / "k.json").write_text('{"agreement": ')
    assert kept.read("k") is None
    (tmp_path / "verdicts" / "k.json").write_text('{"agreement": "high"}')
    assert kept.read("k") is None
    assert [one.name for one in (tmp_path / "verdicts").iterdir()] == ["k.json"]


def test_whatever_the_figures_depend_on_is_in_the_key() -> None:
    machine = {"processor": "one"}
    keys = {
        key_of(spec(), "w", machine, "cpu"),
        key_of(spec(), "v", machine, "cpu"),
        key_of(spec(precision="fp16"), "w", machine, "cpu"),
        key_of(spec(backend="onnx"), "w", machine, "cpu"),
        key_of(spec(backend="onnx", providers=["cpu"]), "w", machine, "cpu"),
        key_of(spec(samples="texts"), "w", machine, "cpu"),
        key_of(spec(), "w", {"processor": "two"}, "cpu"),
        key_of(spec(), "w", machine, "cuda:0"),
    }
    assert len(keys) == 8
    assert key_of(spec(tolerance=0.5), "w", machine, "cpu") in keys


def test_a_reference_is_the_same_model_on_torch_in_fp32_or_the_one_that_is_named() -> None:
    int8 = spec(precision="int8", backend="openvino", providers=["cpu"])
    plain = reference_of(int8, {})
    assert (mode_of(plain), plain.providers) == ("torch fp32", ())
    assert not differs(plain)
    other = spec(name="other", precision="fp32")
    assert reference_of(spec(reference="other"), {"other": other}) is other
    with pytest.raises(ConfigurationError, match="there is no model 'gone'"):
        reference_of(spec(reference="gone"), {})


def test_what_is_onnx_by_itself_is_compared_on_onnx_runtime() -> None:
    plain = spec(handler="text-detect", precision="fp32", backend="onnx")
    assert not differs(plain)
    assert mode_of(plain) == mode_of(plain.model_copy(update={"backend": None})) == "onnx fp32"
    other = plain.model_copy(update={"backend": "openvino"})
    assert differs(other)
    assert mode_of(reference_of(other, {})) == "onnx fp32"
    with pytest.raises(ConfigurationError, match="its file is int8 itself; name the model"):
        reference_of(spec(handler="onnx", precision="int8", backend="onnx"), {})


def test_a_folder_of_weights_that_says_what_it_was_made_of_is_compared_with_that(
    tmp_path: Path,
) -> None:
    (tmp_path / "lanefleet.json").write_text('{"source": "package:some/model"}')
    int8 = spec(precision="int8", weights=str(tmp_path))
    assert reference_of(int8, {}).weights == "package:some/model"


def test_the_gate_refuses_a_load_by_the_verdict_that_is_there(tmp_path: Path) -> None:
    model = spec(handler="tests.support.moded:Moded")
    gate = Gate(Settings(state_dir=tmp_path), {}, "cpu")
    loads: list[str] = []
    load = gate.guarded(lambda one: loads.append(one.name))  # type: ignore[arg-type, return-value]
    load(model)
    kept = Verdicts(tmp_path / "verdicts")
    kept.write(gate.key(model), verdict(ratio=0.5))
    with pytest.raises(ConfigurationError, match=r"0.9800.*below its tolerance 0.99"):
        load(model)
    load(model.model_copy(update={"tolerance": 0.9}))
    assert loads == ["m", "m"]
    assert "0.50x" in gate.warnings()["m"]
    off = Gate(Settings(state_dir=tmp_path, accuracy_gate="off"), {}, "cpu")
    off.guarded(lambda one: loads.append(one.name))(model)  # type: ignore[arg-type, return-value]
    assert len(loads) == 3
