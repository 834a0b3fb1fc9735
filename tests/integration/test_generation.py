"""Generation through a real worker: shared rows, streams, cancels, deadlines and faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.generation import catalog, generate, text_of_job
from tests.support.lanes import await_settled
from tests.support.null_generator import text_of
from tests.support.stack import Stack, running_redis


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One worker with a fast generator, a slow one and a small one."""
    folder = tmp_path_factory.mktemp("generation")
    with running_redis(folder / "redis") as server:
        made = Stack(server.url, folder)
        path = catalog(
            folder,
            quick={"slots": 16},
            slow={"slots": 4, "step_ms": 20},
            small={"slots": 4, "budget_tokens": 64, "step_ms": 1},
        )
        made.environment |= {"LANEFLEET_CATALOG": str(path)}
        made.worker("echo,quick,slow,small")
        yield made
        made.close()


def test_many_jobs_share_steps_and_each_gets_its_own_text(fleet: Stack) -> None:
    prompts = [f"prompt number {number}" for number in range(64)]
    ids = generate(fleet, "quick", *prompts, max_tokens=24)
    await_settled(fleet, ids, 60)
    assert [text_of_job(fleet, one) for one in ids] == [text_of(one, 24) for one in prompts]
