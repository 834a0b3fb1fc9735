"""Time several that take too long to take turns: each runs a second while the others are stopped.

What else the machine does changes within seconds, so two loops of half a minute, one after
the other, see two machines: the same loop was 15% off itself. In slices all see the same.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

_SLICE_SECONDS = 1.0
_LOOK_SECONDS = 0.005


class Sliced(ABC):
    """One contender, begun and stopped."""

    @abstractmethod
    def begin(self) -> None:
        """Give it all its work, in its first slice."""

    @abstractmethod
    def stop(self) -> None:
        """Stop its processes where they are."""

    @abstractmethod
    def resume(self) -> None:
        """Let them go on."""

    @abstractmethod
    def done(self) -> bool:
        """Whether all is done."""


def run_in_slices(contenders: Sequence[Sliced], seconds: float) -> list[float]:
    """Run all to their end; returns how long each one ran. They are stopped before and after.

    Raises TimeoutError when they take longer than `seconds`, all together.
    """
    ran = [0.0] * len(contenders)
    left = list(range(len(contenders)))
    first_round = True
    while left:
        for index in tuple(left):
            one, began = contenders[index], time.perf_counter()
            one.resume()
            if first_round:
                one.begin()
            while not (done := one.done()) and time.perf_counter() - began < _SLICE_SECONDS:
                time.sleep(_LOOK_SECONDS)
            ran[index] += time.perf_counter() - began
            one.stop()
            if done:
                left.remove(index)
        first_round = False
        if sum(ran) > seconds:
            raise TimeoutError(f"not done after {seconds:g} s: {[contenders[i] for i in left]}")
    return ran
