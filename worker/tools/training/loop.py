"""The loop of a training: steps, judgements on held-out inputs, checkpoints, an early end.

Minutes are CPU minutes of this process, counted over all of its starts, so that a busy machine
neither shortens a training nor lengthens it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from worker.devices.torch_import import finish_torch
from worker.tools.report import Progress
from worker.tools.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ("Judgement", "Learner", "Outcome", "Plan", "Point", "slices", "train")

_Item = TypeVar("_Item")

_WARM_STEPS = 50
_LEAST_RATE = 0.02
"""Of the learning rate, at the end."""
_BUCKET_BATCHES = 20
_ADAM = "adam."


@dataclass(frozen=True, slots=True)
class Judgement:
    """How held-out inputs were answered: the mean over them and the worst one."""

    mean: float
    least: float
    finer: float = 0.0
    """The larger the better; decides between equal means."""


class Learner(Protocol):
    """What is trained, and on what."""

    network: nn.Module
    costs: list[int]
    """Of each input to learn from; those of like cost run together."""

    def loss(self, places: Sequence[int]) -> Tensor:
        """Of the inputs at these places, to be made smaller."""

    def judge(self) -> Judgement:
        """On the held-out inputs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast."""

    minutes: float
    batch: int = 32
    learning_rate: float = 3e-4
    judge_seconds: float = 30.0
    """CPU time between two judgements, each of which is followed by a checkpoint."""
    patience: int = 12
    """Judgements without a gain after which it ends."""
    steps: int | None = None
    """Most steps; None leaves it to the minutes."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """One judgement, for the curve."""

    step: int
    minutes: float
    loss: float
    mean: float
    least: float
    finer: float = 0.0

    @property
    def rank(self) -> tuple[float, float]:
        """The larger the better. A gain of the mean below 0.0001 is none."""
        return round(self.mean, 4), self.finer


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it; the network holds the best weights seen."""

    best: Judgement
    steps: int
    minutes: float
    resumed_at: int
    history: list[Point]
    why: str
    """Why it ended."""


def train(
    learner: Learner, plan: Plan, checkpoint: Checkpoint | None, progress: Progress
) -> Outcome:
    """Train until the minutes are spent, or nothing is gained any more; the best is kept.

    Goes on from the checkpoint where there is one. Raises OSError where it cannot be written.
    """
    finish_torch()  # learning needs what serving leaves out
    run = _Run(learner, plan, checkpoint)
    run.resume()
    if not run.history:
        run.judge()
    while not (why := run.why_over()):
        run.step()
        if run.judgement_due:
            run.judge()
        last = run.history[-1]
        said = f"step {run.steps}, loss {run.mean_loss:.4f}, held out {last.mean:.4f}"
        progress(said, min(run.minutes, plan.minutes), plan.minutes)
    if run.history[-1].step != run.steps:
        run.judge()
    return run.outcome(why)


def slices(items: Sequence[_Item], size: int) -> list[Sequence[_Item]]:
    """Cut into parts of this size; the last may be shorter."""
    return [items[first : first + size] for first in range(0, len(items), size)]


class _Run:
    """One training under way."""

    def __init__(self, learner: Learner, plan: Plan, checkpoint: Checkpoint | None) -> None:
        from worker.tools.training.adam import Adam

        self._learner, self._plan, self._checkpoint = learner, plan, checkpoint
        self._named = {
            name: one for name, one in learner.network.named_parameters() if one.requires_grad
        }
        self._adam = Adam(self._named)
        self._best: dict[str, Tensor] = {}
        self._losses: list[float] = []
        self._batches: Iterator[Sequence[int]] = iter(())
        self._began, self._spent_before = time.process_time(), 0.0
        self._judged_at = self._began
        self.steps = self.resumed_at = 0
        self.history: list[Point] = []

    @property
    def minutes(self) -> float:
        return (time.process_time() - self._began) / 60 + self._spent_before

    @property
    def judgement_due(self) -> bool:
        return time.process_time() - self._judged_at >= self._plan.judge_seconds

    @property
    def mean_loss(self) -> float:
        return sum(self._losses) / len(self._losses) if self._losses else 0.0

    @property
    def _best_point(self) -> Point:
        return max(self.history, key=lambda one: one.rank)

    def why_over(self) -> str:
        """Empty while it goes on."""
        if self._plan.steps is not None and self.steps >= self._plan.steps:
            return f"{self.steps} steps were made"
        if self.minutes >= self._plan.minutes:
            return f"{self._plan.minutes:g} CPU minutes were spent"
        waited = len(self.history) - 1 - self.history.index(self._best_point)
        return f"{waited} judgements brought no gain" if waited >= self._plan.patience else ""

    def step(self) -> None:
        places = next(self._batches, None)
        if places is None:
            self._batches = iter(self._epoch())
            places = next(self._batches)
        loss = self._learner.loss(places)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        self._adam.step(self._rate())
        self.steps += 1
        self._losses.append(float(loss.detach()))

    def _rate(self) -> float:
        spent = self.minutes / self._plan.minutes if self._plan.minutes else 1.0
        if self._plan.steps:
            spent = max(spent, self.steps / self._plan.steps)
        warm = min(1.0, (self.steps + 1) / _WARM_STEPS)
        return self._plan.learning_rate * warm * max(_LEAST_RATE, 1 - spent)

    def _epoch(self) -> list[Sequence[int]]:
        """All places once, like costs together, in an order that the step alone decides."""
        import torch

        source = torch.Generator().manual_seed(self._plan.seed * 1_000_003 + self.steps)
        costs, size = self._learner.costs, self._plan.batch
        mixed = torch.randperm(len(costs), generator=source).tolist()
        found: list[Sequence[int]] = []
        for bucket in slices(mixed, size * _BUCKET_BATCHES):
            found += slices(sorted(bucket, key=lambda place: costs[place]), size)
        return [found[one] for one in torch.randperm(len(found), generator=source).tolist()]

    def judge(self) -> None:
        import torch

        with torch.no_grad():
            score = self._learner.judge()
        minutes = round(self.minutes, 3)
        self.history.append(Point(self.steps, minutes, self.mean_loss, *astuple(score)))
        if self._best_point is self.history[-1]:
            self._best = {name: one.detach().clone() for name, one in self._named.items()}
        self._losses.clear()
        self._judged_at = time.process_time()
        self._keep()

    def _keep(self) -> None:
        if self._checkpoint is None:
            return
        tensors: dict[str, Tensor] = {f"now.{name}": one for name, one in self._named.items()}
        tensors |= {f"best.{name}": one for name, one in self._best.items()}
        tensors |= {f"{_ADAM}{name}": one for name, one in self._adam.state().items()}
        facts = {
            "steps": self.steps,
            "minutes": self.minutes,
            "history": [asdict(one) for one in self.history],
        }
        self._checkpoint.write(tensors, facts)

    def resume(self) -> None:
        import torch

        kept = self._checkpoint.read() if self._checkpoint is not None else None
        if kept is None:
            return
        tensors, facts = kept
        with torch.no_grad():
            for name, one in self._named.items():
                one.copy_(tensors[f"now.{name}"])
                self._best[name] = tensors[f"best.{name}"]
        self._adam.restore({name.removeprefix(_ADAM): one for name, one in tensors.items()})
        self.steps = self.resumed_at = int(facts["steps"])
        self._spent_before = float(facts["minutes"])
        self.history = [Point(**one) for one in facts["history"]]

    def outcome(self, why: str) -> Outcome:
        """Let the network be the best one."""
        import torch

        with torch.no_grad():
            for name, one in self._named.items():
                one.copy_(self._best[name])
        best = self._best_point
        return Outcome(
            Judgement(best.mean, best.least, best.finer),
            self.steps,
            self.minutes,
            self.resumed_at,
            self.history,
            why,
        )
