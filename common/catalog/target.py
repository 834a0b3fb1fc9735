"""What an alias points at: one model, or several with a share of its jobs each.

Which of them a job is for is a matter of its id alone (of its tenant's name, where the alias is
sticky), so that every front and every worker says the same without asking anybody. The models
stand on a line from 0 to 1 in the order of their names, each as long as its share: of two, one
whose share grows keeps the jobs and tenants that it has.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate

import orjson

_ROUNDING = 1e-6
"""How far shares may be from 1 in all; thirds written with six digits are no closer."""
_PLACES = 2**64


@dataclass(frozen=True, slots=True)
class Target:
    """The models of an alias with their shares, which are above 0 and 1 in all."""

    shares: Mapping[str, float]
    sticky: bool = False
    """Whether a tenant's jobs all go to one model; jobs without a tenant go by their id."""
    _models: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _edges: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        models = sorted(self.shares)
        object.__setattr__(self, "_models", tuple(models))
        edges = tuple(accumulate(self.shares[one] for one in models[:-1]))
        object.__setattr__(self, "_edges", edges)

    @classmethod
    def whole(cls, model: str) -> Target:
        """All jobs to one model."""
        return cls({model: 1.0})

    @classmethod
    def load(cls, text: str) -> Target | None:
        """Parse the output of `dump`; None where it is something else."""
        if not text.startswith("{"):
            return cls.whole(text)
        try:
            found = orjson.loads(text)
            shares = {str(name): float(share) for name, share in found["shares"].items()}
        except (ValueError, TypeError, LookupError, AttributeError):
            return None
        return None if fault_of(shares) else cls(shares, found.get("sticky") is True)

    def dump(self) -> str:
        """As it stands in Redis: a model's name, or JSON where there are several."""
        if len(self.shares) == 1:
            return self.model
        return orjson.dumps({"shares": dict(self.shares), "sticky": self.sticky}).decode()

    @property
    def model(self) -> str:
        """The one with the largest share, the first of them in the order given."""
        return max(self.shares, key=self.shares.__getitem__)

    @property
    def is_split(self) -> bool:
        """Whether there are several."""
        return len(self.shares) > 1

    def pick(self, alias: str, job_id: str, tenant: str, there: Container[str]) -> str:
        """The model for a job of this alias, among those that are `there` (one must be).

        The share of one that is not goes to the others, by theirs; no other job changes its model.
        """
        chosen = self._at(alias, tenant if self.sticky and tenant else job_id)
        if chosen in there or len(self.shares) == 1:
            return chosen
        # By another number: its place on the line says only that it was in the share of this one.
        return self.without(chosen).pick(f"{alias}\n{chosen}", job_id, tenant, there)

    def without(self, model: str) -> Target:
        """The others, with its share among them."""
        left = {name: share for name, share in self.shares.items() if name != model}
        total = sum(left.values())
        return Target({name: share / total for name, share in left.items()}, self.sticky)

    def moved(self, model: str, share: float, sticky: bool | None) -> Target:
        """With this share for a model; the others keep theirs, in proportion, of what is left.

        0 takes the model out, 1 leaves it alone. Raises ValueError where nobody would have the
        rest.
        """
        sticky = self.sticky if sticky is None else sticky
        others = {name: part for name, part in self.shares.items() if name != model}
        if share >= 1:
            return Target({model: 1.0}, sticky)
        if not others:
            raise ValueError(f"{model!r} has all jobs; give the share to the model that is to come")
        total = sum(others.values())
        shares = {name: part / total * (1 - share) for name, part in others.items()}
        return Target({**shares, model: share} if share > 0 else shares, sticky)

    def _at(self, alias: str, who: str) -> str:
        text = f"{alias}\n{who}".encode("utf-8", "surrogatepass")
        place = int.from_bytes(blake2b(text, digest_size=8).digest()) / _PLACES
        return self._models[bisect_right(self._edges, place)]


def fault_of(shares: Mapping[str, float]) -> str:
    """What is wrong with these shares, as the end of a sentence; empty where nothing is."""
    if not shares:
        return "name at least one model with its share, such as {m@1: 0.95, m@2: 0.05}"
    for name, share in shares.items():
        if not 0 < share <= 1:
            return f"the share of {name} is {share:g}; give a number above 0, and at most 1"
    total = math.fsum(shares.values())
    if abs(total - 1) > _ROUNDING:
        return f"the shares are {total:g} in all; make them 1"
    return ""
