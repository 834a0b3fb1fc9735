"""The models that a lane has beside its own: other versions with a share of its jobs, and its
shadow. Decides which are to be loaded, and gives the lanes those that are.

Pure but for the lanes it writes to: it is called under the state's lock, with the time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import structlog

from common.catalog import Target
from worker.jobs.served import Served
from worker.lanes.lane import Lane
from worker.lanes.split import Split
from worker.models.generator import is_generator
from worker.models.remote import is_remote
from worker.residency.residency import Residency

log = structlog.get_logger(__name__)


class Companions:
    """What the lanes have beside their own models."""

    def __init__(self, lanes: Mapping[str, Lane], residency: Residency) -> None:
        self._lanes = lanes
        self._residency = residency
        self._targets: dict[str, Target] = {}
        """What the aliases that are lanes here point at."""
        self.leaving: set[str] = set()
        """Models that are about to be unloaded, and must get no more jobs. Written by the host."""

    def main_of(self, alias: str, target: Target) -> str:
        """The model that should serve this alias: that of the largest share, or where it cannot be
        loaded, the largest of those that are.
        """
        models = self._residency.models
        if not target.shares.keys() & models.keys():
            return target.model  # of another catalog: the alias stays where it is
        self._targets[alias] = target
        first = models.get(target.model)
        if first is not None and (first.handler is not None or first.error is None):
            return target.model
        by_share = sorted(target.shares, key=lambda name: -target.shares[name])
        return next((name for name in by_share if self._served(name)), target.model)

    def settle(self) -> None:
        """Give each lane those of its companions that are loaded."""
        for lane in self._lanes.values():
            target = self._targets.get(lane.name)
            if lane.split is not None or (target is not None and target.is_split):
                self._settle_split(lane, target)
            if lane.shadow is not None:
                self._settle_shadow(lane)

    def wanted(self, may_open: Callable[[str], bool]) -> str | None:
        """The next model to load for a lane; one that would push out a model of the same lane stays
        out, and so does a shadow that would push out any.
        """
        for lane in self._lanes.values():
            for name in self._absent(lane):
                if self._may_come(lane, name) and may_open(name):
                    return name
            shadow = lane.shadow
            if shadow is None or shadow.served is not None or not may_open(shadow.model):
                continue
            if not self._residency.victims(shadow.model):
                return shadow.model
        return None

    def _may_come(self, lane: Lane, name: str) -> bool:
        """Whether there is room for it beside the other models of its lane."""
        if name not in self._residency.models:
            return False
        mine = {lane.spec.name, *self._targets[lane.name].shares}
        return not set(self._residency.victims(name) or ()) & mine

    def uses(self, lane: Lane, model: str) -> bool:
        """Whether a model runs jobs of this lane."""
        return lane.spec.name == model or (lane.split is not None and model in lane.split.models)

    def left(self, models: Collection[str]) -> None:
        """These get no more jobs, as they are to be unloaded."""
        self.leaving.update(models)
        self.settle()

    def warnings(self) -> list[str]:
        """A sentence for each version with a share that cannot be loaded."""
        said = []
        for lane in list(self._lanes.values()):
            for name, why in self.missing(lane).items():
                said.append(f"{lane.name}: {name} is not loaded, its jobs go to others: {why}")
        return said

    def missing(self, lane: Lane) -> dict[str, str]:
        """Why versions of this lane with a share are not loaded, where they should be."""
        models = self._residency.models
        found = {}
        for name in self._absent(lane):
            if name not in models:
                found[name] = "it is not in this worker's catalog"
            elif error := models[name].error:
                found[name] = error
            elif not self._may_come(lane, name):
                found[name] = "LANEFLEET_MODEL_MEMORY_MB has no room for it beside the others"
        return found

    def _absent(self, lane: Lane) -> list[str]:
        target = self._targets.get(lane.name)
        models = self._residency.models
        if target is None or not target.is_split or lane.generates:
            return []
        failed = target.model in models and models[target.model].error is not None
        if lane.handler is None and not failed:
            return []  # it is loaded first, with its first job where it is lazy
        return [name for name in target.shares if not self._is_loaded(name)]

    def _is_loaded(self, name: str) -> bool:
        model = self._residency.models.get(name)
        return model is not None and model.handler is not None

    def _served(self, name: str) -> Served | None:
        model = self._residency.models.get(name)
        if model is None or model.handler is None or name in self.leaving:
            return None
        if is_generator(model.handler) or is_remote(model.handler):
            return None
        return Served(model.spec, model.handler, model.weights_digest or "")

    def _settle_split(self, lane: Lane, target: Target | None) -> None:
        split = None
        if target is not None and lane.handler is not None and not lane.generates:
            found = {name: one for name in target.shares if (one := self._served(name))}
            if len(found) > 1 and lane.spec.name in found:
                split = Split(lane.name, target, found)
        if split != lane.split:
            before = {} if lane.split is None else lane.split.shares
            lane.share(split)
            now = {} if split is None else split.shares
            if before != now:
                log.info("alias_shared_out", alias=lane.name, shares=now or {lane.spec.name: 1.0})

    def _settle_shadow(self, lane: Lane) -> None:
        shadow = lane.shadow
        assert shadow is not None
        served = self._served(shadow.model)
        if served is None and shadow.served is not None:
            shadow.leave()
        shadow.served = served
