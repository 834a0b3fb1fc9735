"""The figures of a stage, from the turns in which it was taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from api.cli.bench.figures import Stage, percentile, window_seconds, windows_of
from api.cli.bench.fleet_facts import Ran
from api.cli.bench.generator import Tally
from api.cli.bench.meter import Used


@dataclass(frozen=True, slots=True)
class Turn:
    """What came in one span of the steady clock, and what workers and this machine did."""

    tally: Tally
    used: Used
    ran: Ran | None = None
    machine_busy: float | None = None


def stage_of(model: str, clients: int, turns: Sequence[Turn]) -> Stage:
    """The figures of all turns together; windows are within a turn each."""
    answers = [_answers(one) for one in turns]
    ordered = sorted(latency for part in answers for _, latency in part)
    seconds = sum(one.used.seconds for one in turns)
    cpu = sum(one.used.cpu for one in turns)
    shortest = min(one.used.seconds for one in turns)
    length = window_seconds(shortest, percentile(ordered, 0.5) if ordered else 0.0)
    figures = {
        "p50_ms": round(percentile(ordered, 0.5), 3),
        "p95_ms": round(percentile(ordered, 0.95), 3),
        "p99_ms": round(percentile(ordered, 0.99), 3),
        "worst_ms": round(ordered[-1], 3),
    } if ordered else {}  # fmt: skip
    return Stage(
        model,
        clients,
        round(seconds, 3),
        len(ordered),
        **figures,
        errors=dict(sum((one.tally.errors for one in turns), Counter())),
        reused=sum(one.tally.reused for one in turns),
        windows=[
            window
            for part, one in zip(answers, turns, strict=True)
            for window in windows_of(part, one.used.seconds, length)
        ],
        batches=dict(sum((_batches(one) for one in turns), Counter())),
        device_busy=_mean([one.ran.device_busy if one.ran else None for one in turns]),
        generator_busy=round(cpu / seconds, 4),
        generator_waited=_mean([one.used.waited_share for one in turns]),
        machine_busy=_mean([one.machine_busy for one in turns]),
    )


def _answers(turn: Turn) -> list[tuple[float, float]]:
    """Seconds since the turn began, and latency in ms."""
    began, ended = turn.used.began, turn.used.ended
    return [
        (at - began, latency)
        for at, latency in zip(turn.tally.at, turn.tally.latency_ms, strict=True)
        if began <= at <= ended
    ]


def _batches(turn: Turn) -> Counter[int]:
    """From the workers' reports; else from the answers, each of which counts a part of one."""
    if turn.ran is not None:
        return Counter(turn.ran.batches)
    sizes = turn.tally.batch_sizes
    return Counter({size: max(1, round(jobs / size)) for size, jobs in sizes.items()})


def _mean(found: Sequence[float | None]) -> float | None:
    known = [one for one in found if one is not None]
    return round(sum(known) / len(known), 4) if len(known) == len(found) else None
