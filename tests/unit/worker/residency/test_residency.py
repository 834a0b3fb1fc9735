"""The models in memory: loaded when wanted, within a budget, the least recently used leave."""

from __future__ import annotations

import mmap
import time
from typing import Any

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.residency.residency import Residency, memory_in_use


class Device:
    """Memory that fills as models load."""

    def __init__(self) -> None:
        self.used = 100.0
        self.loads: list[str] = []

    def load(self, spec: ModelSpec) -> Any:
        if spec.options.get("broken"):
            raise ConfigurationError("no weights; put them there")
        self.loads.append(spec.name)
        self.used += spec.options.get("takes", 40.0)
        return object()


def residency(device: Device, budget: float = 100.0, **models: dict[str, Any]) -> Residency:
    specs = {name: ModelSpec(name=name, handler="echo", **body) for name, body in models.items()}
    return Residency(specs, budget, device.load, lambda: device.used)


def load(one: Residency, name: str) -> bool:
    handler = one.load(name)
    if handler is not None:
        one.admit(name, handler)
    return handler is not None


def use(one: Residency, name: str) -> None:
    one.touch(name)
    one.models[name].used_at = max(model.used_at for model in one.models.values()) + 1


def test_a_size_is_measured_or_taken_from_the_catalog() -> None:
    one = residency(Device(), a={"options": {"takes": 30.0}}, b={"memory_mb": 55})
    assert load(one, "a")
    assert load(one, "b")
    assert [one.models[name].size_mb for name in "ab"] == [30.0, 55.0]
    assert one.used_mb == 85.0


def test_the_least_recently_used_leave_and_the_pinned_stay() -> None:
    one = residency(
        Device(),
        old={"memory_mb": 40},
        pinned={"memory_mb": 20, "pin": True},
        young={"memory_mb": 40},
        new={"memory_mb": 40},
        huge={"memory_mb": 90},
    )
    for name in ("pinned", "old", "young"):
        assert one.victims(name) == []
        load(one, name)
        use(one, name)
    assert one.victims("new") == ["old"]
    use(one, "old")
    assert one.victims("new") == ["young"]
    assert one.victims("huge") is None, "not even when all but the pinned leave"


def test_what_is_loaded_counts_once() -> None:
    one = residency(Device(), a={"memory_mb": 40}, b={"memory_mb": 40}, c={"memory_mb": 30})
    load(one, "a")
    load(one, "b")
    use(one, "b")
    assert one.victims("b") == [], "both fit"
    load(one, "c")
    assert one.victims("c") == ["a"], "whoever turns out too large still makes others leave"


def test_without_a_budget_nobody_leaves() -> None:
    one = residency(Device(), 0.0, a={"memory_mb": 1e6}, b={"memory_mb": 1e6})
    load(one, "a")
    assert one.victims("b") == []


def test_a_model_that_cannot_be_loaded_says_why_and_is_tried_again_later() -> None:
    one = residency(Device(), a={"options": {"broken": True}})
    assert not load(one, "a")
    assert one.models["a"].error == "no weights; put them there"
    assert not one.may_load("a", one.models["a"].retry_at - 1)
    assert one.may_load("a", one.models["a"].retry_at)


def test_the_pause_doubles_with_each_failure_in_a_row() -> None:
    one = residency(Device(), a={"options": {"broken": True}})
    model = one.models["a"]

    def pauses(count: int) -> list[int]:
        found = []
        for _ in range(count):
            began = time.monotonic()
            assert not load(one, "a")
            found.append(round(model.retry_at - began))
        return found

    assert pauses(6) == [30, 60, 120, 240, 300, 300]
    model.reset_failures()
    assert one.may_load("a", time.monotonic())
    assert pauses(2) == [30, 60]
    one.admit("a", object())  # type: ignore[arg-type]
    one.unload("a")
    assert pauses(1) == [30], "it worked in between"


def test_unloading_tells_the_handler_and_loading_again_works() -> None:
    device = Device()
    one = residency(device, a={})
    load(one, "a")
    told = []

    class Handler:
        def unload(self) -> None:
            told.append("a")

    one.models["a"].handler = Handler()  # type: ignore[assignment]
    assert one.unload("a")
    assert not one.unload("a")
    assert told == ["a"]
    assert load(one, "a")
    assert device.loads == ["a", "a"]


def test_our_own_memory_can_be_read() -> None:
    read = memory_in_use("cpu")
    before = read()
    with mmap.mmap(-1, 64 * 2**20) as ballast:  # fresh pages, which a heap may not need
        ballast.write(b"x" * (64 * 2**20))
        assert 48 < read() - before < 192


def test_a_model_names_what_computes_where_its_handler_or_the_catalog_does() -> None:
    one = residency(Device(), plain={}, graph={"backend": "openvino", "precision": "int8"})
    for name in ("plain", "graph"):
        assert load(one, name)
    plain, graph = (one.models[name].handler for name in ("plain", "graph"))
    assert (one.computed_by(plain), one.computed_by(graph)) == ("", "openvino int8")
    one.models["graph"].weights_digest = "0123abcd"
    assert one.computed_by(graph) == "openvino int8 0123abcd"
    assert one.computed_by(None) == one.computed_by(Device()) == ""  # type: ignore[arg-type]  # unloaded
