"""How the jobs of one lane are shared out between versions of its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.catalog import Target
from worker.jobs.execution import Execution
from worker.jobs.served import Served


@dataclass(frozen=True, slots=True)
class Split:
    """An alias with several models, of which at least two are loaded."""

    alias: str
    target: Target
    models: Mapping[str, Served]
    """Those that are loaded, by name."""

    def pick(self, execution: Execution) -> Served:
        """The model for this job.

        The one that the front meant, where its cache ticket says so: its result is kept, and given
        to identical jobs, under that one's name.
        """
        if execution.weights:
            for served in self.models.values():
                if served.weights == execution.weights:
                    return served
        name = self.target.pick(self.alias, execution.job_id, execution.tenant, self.models)
        return self.models[name]

    @property
    def shares(self) -> dict[str, float]:
        """The share of each that is loaded, with those of the others among them."""
        target = self.target
        for name in self.target.shares:
            if name not in self.models:
                target = target.without(name)
        return dict(target.shares)

    def without(self, model: str) -> Split | None:
        """The same once a model has left; None where one is left."""
        left = {name: served for name, served in self.models.items() if name != model}
        return Split(self.alias, self.target, left) if len(left) > 1 else None
