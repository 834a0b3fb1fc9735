"""What workers tell fronts of an alias that several models share: which are loaded, with what.

A lane that one model serves is told of as `model digest`; this is JSON in its place, which a front
of an earlier version takes for a model that it does not know: it caches nothing of that lane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from common.catalog import Target


@dataclass(frozen=True, slots=True)
class SharedWeights:
    """The models of one alias, as one worker has them."""

    target: Target
    weights: Mapping[str, str]
    """By model that is loaded, the digest of its weights; empty until it is known."""

    def dump(self) -> str:
        """Encode as JSON."""
        return orjson.dumps({"target": self.target.dump(), "weights": self.weights}).decode()

    @classmethod
    def load(cls, text: str) -> SharedWeights | None:
        """Parse the output of `dump`; None where it is something else."""
        if not text.startswith("{"):
            return None
        try:
            found = orjson.loads(text)
            target = Target.load(found["target"])
            weights = {str(name): str(one) for name, one in found["weights"].items()}
        except (ValueError, TypeError, LookupError, AttributeError):
            return None
        # At least one of those that share it, as a job must be for one that is loaded.
        if target is None or not weights.keys() & target.shares.keys():
            return None
        return cls(target, weights)
