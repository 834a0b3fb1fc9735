"""Models that cannot be loaded: what becomes of them, and of the others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.catalog import ModelSpec
from common.settings import Settings
from tests.support.models import calls
from worker.lanes.lane import Lane
from worker.lanes.state import WorkerState
from worker.residency.loader import Loader
from worker.residency.loading import loader_for
from worker.residency.model_host import ModelHost
from worker.residency.residency import Residency
from worker.residency.weights_digests import WeightsDigests


class Works:
    """A model with nothing wrong."""

    unloaded: list[str] = []  # noqa: RUF012 - the host makes the handlers, so they share it

    def load(self, spec: ModelSpec, device: str) -> None:
        self._name = spec.name

    def example(self) -> str:
        return "example"

    def decode(self, value: Any, params: Mapping[str, Any]) -> Any:
        return value

    def cost(self, item: Any) -> float:
        return 1.0

    def infer(self, items: Sequence[Any]) -> list[Any]:
        return list(items)

    def encode(self, output: Any) -> Any:
        return output

    def unload(self) -> None:
        self.unloaded.append(self._name)


class Broken(Works):
    """Its weights are not what they should be."""

    def load(self, spec: ModelSpec, device: str) -> None:
        raise ValueError("broken weights")


class Exits(Works):
    """Its library ends the program."""

    def load(self, spec: ModelSpec, device: str) -> None:
        raise SystemExit(3)


class Cold(Works):
    """Fails as soon as it is used."""

    def infer(self, items: Sequence[Any]) -> list[Any]:
        raise RuntimeError("no kernel for this device")


class ColdExits(Works):
    """Ends the program as soon as it is used."""

    def infer(self, items: Sequence[Any]) -> list[Any]:
        raise SystemExit(3)


class Stuck(Cold):
    """Cannot even be let go."""

    def unload(self) -> None:
        super().unload()
        raise RuntimeError("still in use")


class Late(Works):
    """Comes in after the others."""


@pytest.fixture(autouse=True)
def _nothing_unloaded() -> None:
    Works.unloaded.clear()


def name(handler: type[Works]) -> str:
    """Of the model that this class is the handler of."""
    return handler.__name__.lower()


def host(
    folder: Path, *handlers: type[Works], budget: float = 0.0, hold: bool = False
) -> ModelHost:
    """One that serves these, 60 MB each, on lanes with nothing in hand."""
    specs = {
        name(one): ModelSpec(name=name(one), handler=f"{__name__}:{one.__name__}", memory_mb=60)
        for one in handlers
    }

    lanes = {
        spec.name: Lane(
            spec.name, spec, result_ttl_seconds=60, look_ahead_jobs=256, max_fetching=64
        )
        for spec in specs.values()
    }
    for lane in lanes.values():
        lane.ready = False
    state, guard = WorkerState(lanes), calls()
    residency = Residency(specs, budget, loader_for("cpu", Settings()), lambda: 0.0)
    return ModelHost(
        state,
        residency,
        Loader(state, residency, WeightsDigests(folder / "digests.json"), guard),
        guard,
        warm_full_batches=False,
        turn_seconds=0.0,
        hold=hold,
    )


def settle(one: ModelHost) -> None:
    """What the device thread does, until nothing is being loaded."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        task = one.next_task()
        if task is not None:
            task()
        elif not one.is_bringing_in():
            return
        else:
            time.sleep(0.001)
    raise AssertionError(f"{one.loading} is still being loaded")


def bring_in(one: ModelHost, model: type[Works]) -> bool:
    one.open(name(model))
    settle(one)
    return one.residency.handler(name(model)) is not None


def test_one_with_broken_weights_drives_the_others_out_ever_less_often(tmp_path: Path) -> None:
    one = host(tmp_path, Works, Broken, budget=100.0)
    now, tries = time.monotonic(), 0
    assert bring_in(one, Works)
    for second in range(0, 1800, 10):  # half an hour in which both always have work
        if one.may_open("broken", now + second):
            tries += 1
            assert not bring_in(one, Broken)
            one.residency.models["broken"].retry_at += second  # it failed at that time
            assert bring_in(one, Works)
    assert Works.unloaded == ["works"] * tries
    assert 5 <= tries <= 10, "not every 30 seconds"
    assert "broken weights" in str(one.residency.models["broken"].error)


@pytest.mark.parametrize("verb", ["load", "warm"])
def test_an_operator_may_have_it_tried_at_once(tmp_path: Path, verb: str) -> None:
    one = host(tmp_path, Broken)
    for _ in range(5):
        bring_in(one, Broken)
    model = one.residency.models["broken"]
    assert model.retry_at > time.monotonic() + 200
    one.on_command(f"{verb} broken".encode())
    settle(one)
    assert 0 < model.retry_at - time.monotonic() <= 30


@pytest.mark.parametrize("model", [Exits, ColdExits])
def test_one_that_ends_the_program_is_only_kept_out(tmp_path: Path, model: type[Works]) -> None:
    one = host(tmp_path, Works, model)
    assert not bring_in(one, model)
    assert "SystemExit" in str(one.residency.models[name(model)].error)
    assert bring_in(one, Works), "the others still come in"


def test_what_fails_around_a_load_is_a_failed_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = host(tmp_path, Works)

    def fail(*_: object) -> None:
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(one.residency, "_memory_mb", fail)
        assert not bring_in(one, Works)
    assert "the device is gone" in str(one.residency.models["works"].error)
    assert bring_in(one, Works)


@pytest.mark.parametrize("model", [Cold, Stuck])
def test_one_that_cannot_be_warmed_up_is_told_to_go(tmp_path: Path, model: type[Works]) -> None:
    one = host(tmp_path, Works, model)
    assert not bring_in(one, model)
    assert Works.unloaded == [name(model)]
    assert "warm-up failed" in str(one.residency.models[name(model)].error)
    assert bring_in(one, Works)


@pytest.mark.parametrize("hold", [False, True])
def test_after_a_doubtful_death_no_lane_opens_before_all_models_are_in(
    tmp_path: Path, hold: bool
) -> None:
    one = host(tmp_path, Works, Stuck, Broken, Late, hold=hold)
    one.begin()
    opened: list[set[str]] = []
    until = time.monotonic() + 10
    lanes = one._state.lanes
    while len(opened) < 1000 and time.monotonic() < until:
        with one._state.changed:
            task = one.next_task()
        if task:
            task()
        now = {lane.name for lane in lanes.values() if lane.handler}
        if not opened or opened[-1] != now:
            opened.append(now)
        if now == {"works", "late"}:
            break
        time.sleep(0.001)
    between = [] if hold else [{"works"}]
    assert opened == [set(), *between, {"works", "late"}]
