"""Which models are loaded beside a lane's own, and that none of them pushes out its like."""

from __future__ import annotations

from typing import Any

from common.catalog import ModelSpec, Target
from worker.jobs.execution import Execution
from worker.lanes.lane import Lane
from worker.residency.companions import Companions
from worker.residency.residency import Residency

HALVES = Target({"m@1": 0.5, "m@2": 0.5})


class Fleet:
    """The alias `m` of two versions, and `other`, of 60 MB each; the first version is loaded."""

    def __init__(self, budget_mb: float = 0.0, shadow: str | None = None) -> None:
        names = ("m@1", "m@2", "other")
        specs = {
            name: ModelSpec(name=name, handler="echo", memory_mb=60, shadow=shadow, max_batch=size)
            for size, name in enumerate(names, 7)
        }
        self.residency = Residency(specs, budget_mb, lambda _spec: handler(), lambda: 0.0)
        limits = {"result_ttl_seconds": 60, "look_ahead_jobs": 8, "max_fetching": 8}
        self.lane = Lane("m", specs["m@1"], **limits)
        self.companions = Companions({"m": self.lane}, self.residency)
        self.load("m@1")
        self.lane.serve(specs["m@1"], self.residency.handler("m@1"))

    def load(self, name: str) -> None:
        self.residency.admit(name, handler())

    def point(self, target: Target) -> str:
        main = self.companions.main_of("m", target)
        self.companions.settle()
        return main

    def wanted(self) -> str | None:
        return self.companions.wanted(lambda model: self.residency.may_load(model, 0.0))


def handler() -> Any:
    return object()


def test_a_version_with_a_share_is_loaded_and_gets_jobs_once_it_is() -> None:
    fleet = Fleet()
    assert fleet.point(HALVES) == "m@1"
    assert (fleet.wanted(), fleet.lane.split) == ("m@2", None)
    fleet.load("m@2")
    fleet.companions.settle()
    assert fleet.lane.split is not None
    assert fleet.lane.split.shares == HALVES.shares
    assert fleet.wanted() is None
    jobs = [Execution(b"", 1, 0, str(number), 0.0) for number in range(64)]
    picked = [one.served for one in fleet.lane.assign(jobs)]
    assert {one.spec.name for one in picked if one} == {"m@1", "m@2"}
    assert picked == sorted(picked, key=lambda one: one.spec.name if one else "")
    assert all(one.handler is one.served.handler for one in jobs if one.served)


def test_one_that_is_to_be_unloaded_gets_no_more_jobs() -> None:
    fleet = Fleet()
    fleet.load("m@2")
    fleet.point(HALVES)
    fleet.companions.left(["m@2"])
    assert fleet.lane.split is None
    fleet.companions.settle()
    assert fleet.lane.split is None, "it is still in memory"


def test_the_batches_keep_to_the_limits_of_all_versions() -> None:
    fleet = Fleet()
    fleet.load("m@2")
    assert fleet.lane.limits.max_batch == 7
    fleet.point(Target({"m@2": 0.9, "m@1": 0.1}))
    assert fleet.companions.main_of("m", Target({"m@2": 0.9, "m@1": 0.1})) == "m@2"
    fleet.lane.serve(fleet.residency.models["m@2"].spec, fleet.residency.handler("m@2"))
    assert fleet.lane.limits.max_batch == 8
    fleet.companions.settle()
    assert fleet.lane.limits.max_batch == 7
    fleet.point(Target.whole("m@2"))
    assert fleet.lane.limits.max_batch == 8


def test_a_version_that_would_push_out_the_other_stays_out_and_says_why() -> None:
    fleet = Fleet(budget_mb=100)
    fleet.point(HALVES)
    assert fleet.wanted() is None
    assert "LANEFLEET_MODEL_MEMORY_MB has no room" in fleet.companions.missing(fleet.lane)["m@2"]
    (said,) = fleet.companions.warnings()
    assert said.startswith("m: m@2 is not loaded, its jobs go to others")


def test_a_shadow_pushes_out_nobody() -> None:
    assert Fleet(shadow="other").wanted() == "other"
    fleet = Fleet(budget_mb=130, shadow="other")
    assert fleet.wanted() == "other"
    fleet.load("m@2")
    assert fleet.wanted() is None


def test_the_largest_that_can_be_loaded_serves_where_the_first_cannot() -> None:
    fleet = Fleet()
    most = Target({"other": 0.9, "m@1": 0.1})
    assert fleet.point(most) == "other", "it may still come"
    fleet.residency.refuse("other", "broken")
    assert fleet.point(most) == "m@1"
    assert fleet.companions.missing(fleet.lane) == {"other": "broken"}


def test_a_target_of_another_catalog_changes_nothing() -> None:
    fleet = Fleet()
    fleet.load("m@2")
    fleet.point(HALVES)
    fleet.point(Target.whole("unknown"))
    assert fleet.lane.split is not None
    fleet.point(Target({"m@1": 0.5, "unknown": 0.5}))
    assert fleet.lane.split is None
    assert fleet.companions.missing(fleet.lane) == {"unknown": "it is not in this worker's catalog"}
    assert fleet.wanted() is None
