"""The rules by which KEDA 2.20 and the HPA (autoscaling/v2) set replicas, as pure functions.

KEDA decides between 0 and 1 at each poll; from 1 on the HPA decides at each sync, by the same
signal. Time is an argument, in seconds of any clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

POLL_SECONDS = 30.0
SYNC_SECONDS = 15.0
TOLERANCE = 0.1


class Policy(NamedTuple):
    """So much may replicas change in a period."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_seconds: float


@dataclass(frozen=True)
class Behavior:
    """How fast replicas may change in one direction."""

    window_seconds: float
    policies: tuple[Policy, ...]
    select: Literal["Max", "Min", "Disabled"] = "Max"


UP = Behavior(0, (Policy("Pods", 4, 15), Policy("Percent", 100, 15)))
DOWN = Behavior(300, (Policy("Percent", 100, 15),))
"""Kubernetes' defaults."""


def wanted_replicas(replicas: int, total: float, target: float) -> int:
    """What one metric asks for: its total by the target per replica, unless it is close enough.

    Quantities are whole thousandths, rounded up.
    """
    total, target = math.ceil(total * 1000), math.ceil(target * 1000)
    if replicas and 1 - TOLERANCE <= total / (target * replicas) <= 1 + TOLERANCE:
        return replicas
    return math.ceil(total / target)


def wanted_by_all(replicas: int, metrics: Sequence[tuple[float | None, float]]) -> int:
    """Of several metrics the largest wins; while one fails (None), replicas do not fall."""
    wanted = [wanted_replicas(replicas, total, to) for total, to in metrics if total is not None]
    failing = any(total is None for total, _ in metrics)
    return max([*wanted, replicas] if failing or not wanted else wanted)


@dataclass
class Hpa:
    """One HorizontalPodAutoscaler; KEDA gives it a least of 1 where its own is 0."""

    least: int
    most: int
    up: Behavior = UP
    down: Behavior = DOWN
    _wanted: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def sync(self, now: float, replicas: int, wanted: int) -> int:
        """The replicas to set. At 0 it is asleep."""
        if replicas == 0:
            return 0
        if not self.least <= replicas <= self.most:
            return min(max(replicas, self.least), self.most)
        steady = self._steadied(now, replicas, wanted)
        allowed = self._allowed(now, replicas, steady)
        if allowed != replicas:
            self._changes.append((now, allowed - replicas))
        return allowed

    def _steadied(self, now: float, replicas: int, wanted: int) -> int:
        """At least the least wanted in the window of `up`, at most the most in that of `down`."""
        if not self._wanted:
            self._wanted.append((now, replicas))
        kept = {
            way: [n for at, n in self._wanted if at > now - way.window_seconds] + [wanted]
            for way in (self.up, self.down)
        }
        longest = max(self.up.window_seconds, self.down.window_seconds)
        self._wanted = [(at, n) for at, n in self._wanted if at > now - longest]
        self._wanted.append((now, wanted))
        return min(max(replicas, min(kept[self.up])), max(kept[self.down]))

    def _allowed(self, now: float, replicas: int, steady: int) -> int:
        if steady > replicas:
            return min(steady, self.most, max(replicas, self._bound(now, replicas, self.up, 1)))
        if steady < replicas:
            return max(steady, self.least, min(replicas, self._bound(now, replicas, self.down, -1)))
        return replicas

    def _bound(self, now: float, replicas: int, way: Behavior, sign: int) -> int:
        if way.select == "Disabled":
            return replicas
        bounds = []
        for policy in way.policies:
            changed = sum(by for at, by in self._changes if at > now - policy.period_seconds)
            began = replicas - changed
            if policy.kind == "Pods":
                bounds.append(began + sign * policy.value)
            else:
                share = began * (1 + sign * policy.value / 100)
                bounds.append(math.ceil(share) if sign > 0 else int(share))
        furthest = (sign > 0) == (way.select == "Max")
        return max(bounds) if furthest else min(bounds)


@dataclass
class Keda:
    """The operator's part of one ScaledObject."""

    least: int = 0
    cooldown_seconds: float = 300.0
    activation: float = 0.0
    failure_threshold: int = 3
    fallback_replicas: int | None = None
    fallback_behavior: Literal["static", "currentReplicasIfHigher"] = "static"
    _active_at: float | None = None
    _failures: int = 0

    def poll(self, now: float, replicas: int, value: float | None) -> int | None:
        """The replicas to set, or None; value is None where the trigger failed."""
        self._failures = self._failures + 1 if value is None else 0
        if value is not None and value > self.activation:
            self._active_at = now
            return max(self.least, 1) if replicas == 0 else None
        if value is None and self.fallback_replicas != 0:
            return None
        if self.least == 0 and replicas > 0 and self._is_cold(now):
            return 0
        return self.least if replicas < self.least else None

    def metric(self, replicas: int, value: float | None, target: float) -> float | None:
        """What the HPA is told; None where that fails too."""
        if value is not None or self.fallback_replicas is None:
            return value
        if self._failures <= self.failure_threshold:
            return None
        higher = self.fallback_behavior == "currentReplicasIfHigher"
        return target * (
            max(replicas, self.fallback_replicas) if higher else self.fallback_replicas
        )

    def _is_cold(self, now: float) -> bool:
        return self._active_at is None or now > self._active_at + self.cooldown_seconds
