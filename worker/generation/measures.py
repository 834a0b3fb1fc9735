"""What is measured of a step: some additions a step, and one for each job that ends by it."""

from __future__ import annotations

from collections.abc import Sequence

from worker.generation.generation import Generation, Token
from worker.lanes.state import WorkerState

_LONGEST_GAP_SECONDS = 60.0
"""Steps further apart than this did not follow each other."""


def measure_step(
    generations: Sequence[Generation],
    tokens: Sequence[Token],
    done: Sequence[Generation],
    active: int,
    slots: int,
    began: float,
    ended: float,
    since: float,
    state: WorkerState,
) -> None:
    """Record a step of these jobs, of which some are done; since is when the last one ended."""
    seconds, each = ended - began, (ended - began) / len(generations)
    lanes = {one.lane for one in generations}
    for lane in lanes:
        lane.stats.ran(seconds)
        lane.stats.stages.stages["infer"].observe(seconds)
        lane.stats.version(lane.spec.version).infer.observe(seconds)
    for one in generations:
        if tenant := one.execution.tenant:
            state.counts.tenants.used(tenant, each, 0, ended)
    gap = ended - since
    for token in tokens:
        generation = token.generation
        stats = generation.lane.stats.generation
        stats.completion_tokens += 1
        if generation.first_at == ended:
            stats.first_token.observe(ended - generation.execution.arrived)
        elif gap < _LONGEST_GAP_SECONDS:
            stats.between.observe(gap)
    for one in done:
        stages = one.lane.stats.stages
        stages.jobs += 1
        stages.room += slots / active
        stages.cost += one.execution.cost
        stages.padded_cost += one.execution.cost
        if tenant := one.execution.tenant:
            state.counts.tenants.used(tenant, 0.0, 1, ended)
