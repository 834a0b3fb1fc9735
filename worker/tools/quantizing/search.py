"""Which layers stay in fp32 so that a quantized network agrees with the one that it was made of.

Each unit, a layer or some, is first quantized alone, which says how much harm it does. Units are
then kept in fp32 by falling harm until the goal is met, found by halving, as each try costs a
quantisation and a run over the samples; and those that turn out not to be needed are given back.
Pure: what is tried is a function that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ("Found", "Score", "Unit", "find_kept", "units_of")

Names = frozenset[str]
_MOST_UNITS = 32
_MOST_GIVEN_BACK = 8


@dataclass(frozen=True, slots=True)
class Unit:
    """Layers that are kept or quantized together."""

    names: Names
    title: str


@dataclass(frozen=True, slots=True)
class Score:
    """How a try did on the samples that tune."""

    agreement: float
    """What the gate judges by."""
    closeness: float
    """A finer figure, which tells two tries of the same agreement apart."""


@dataclass(frozen=True, slots=True)
class Found:
    """How the search ended."""

    kept: tuple[Unit, ...]
    """In fp32, most harmful first."""
    harm: dict[str, float]
    """By title: 1 - closeness with this unit alone quantized; empty where it was not needed."""
    agreement: float
    """On the samples that tuned."""
    met: bool
    whole: float
    """The agreement with everything quantized."""


def units_of(layers: Sequence[tuple[str, str]]) -> list[Unit]:
    """Layers (name, shape) as at most 32 units: each alone, else those of one shape, else runs."""
    if len(layers) <= _MOST_UNITS:
        return [Unit(frozenset([name]), f"{name} ({shape})") for name, shape in layers]
    by_shape: dict[str, list[str]] = {}
    for name, shape in layers:
        by_shape.setdefault(shape, []).append(name)
    if len(by_shape) <= _MOST_UNITS:
        return [
            Unit(frozenset(names), f"{len(names)} of {shape}") for shape, names in by_shape.items()
        ]
    size = -(-len(layers) // _MOST_UNITS)
    runs = [layers[first : first + size] for first in range(0, len(layers), size)]
    return [
        Unit(frozenset(name for name, _ in run), f"{run[0][0]} to {run[-1][0]}") for run in runs
    ]


def find_kept(units: Sequence[Unit], score: Callable[[Names], Score], goal: float) -> Found:
    """The fewest units that the order of harm allows; score gets the names kept in fp32."""
    whole = score(frozenset()).agreement
    if whole >= goal:
        return Found((), {}, whole, met=True, whole=whole)
    everything = _names(units)
    harm = {unit.title: 1 - score(everything - unit.names).closeness for unit in units}
    order = sorted(units, key=lambda unit: -harm[unit.title])
    tried = {0: whole}

    def agreement_of(count: int) -> float:
        if count not in tried:
            tried[count] = score(_names(order[:count])).agreement
        return tried[count]

    low, high = 0, len(order) - 1  # with all of them kept nothing is quantized
    if agreement_of(high) < goal:
        return Found(tuple(order[:high]), harm, agreement_of(high), met=False, whole=whole)
    while high - low > 1:
        middle = (low + high) // 2
        if agreement_of(middle) >= goal:
            high = middle
        else:
            low = middle
    kept, reached = _give_back(order[:high], agreement_of(high), score, goal)
    return Found(kept, harm, reached, met=True, whole=whole)


def _give_back(
    kept: list[Unit], reached: float, score: Callable[[Names], Score], goal: float
) -> tuple[tuple[Unit, ...], float]:
    """Quantize what is not needed after all: the last that was kept is, by how it was found."""
    for unit in reversed(kept[:-1][-_MOST_GIVEN_BACK:]):
        without = [one for one in kept if one is not unit]
        found = score(_names(without)).agreement
        if found >= goal:
            kept, reached = without, found
    return tuple(kept), reached


def _names(units: Sequence[Unit]) -> Names:
    return frozenset().union(*(unit.names for unit in units))
