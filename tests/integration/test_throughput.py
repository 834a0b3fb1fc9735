"""What an API process knows of its lanes, against a real Redis and a worker."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from api.overload.lane_sampler import LaneSampler
from common.jobs.job import Job
from common.redis.connect import connect_async
from tests.support.stack import Stack

CATALOG = """models:
  paced: {handler: "tests.support.handlers:Paced", max_batch: 8, options: {batch_ms: 100}}
"""


@pytest.fixture
def paced(stack: Stack, tmp_path: Path) -> Stack:
    """A lane that drains 80 jobs a second per worker."""
    catalog = tmp_path / "models.yaml"
    catalog.write_text(CATALOG)
    stack.environment["LANEFLEET_CATALOG"] = str(catalog)
    return stack


async def sampled(stack: Stack, seconds: float) -> LaneSampler:
    client = connect_async(stack.redis_url, stack.settings)
    sampler = LaneSampler(client, ["paced"], max_backlog=1_000_000)
    await sampler.start()
    await asyncio.sleep(seconds)
    await sampler.stop()
    await client.aclose()
    return sampler


def test_the_rate_of_a_busy_lane_is_measured(paced: Stack) -> None:
    worker = paced.worker("paced")
    paced.publish([Job("paced", number) for number in range(800)])
    began = time.monotonic()
    done = paced.stats("paced").get("succeeded", 0)
    sampler = asyncio.run(sampled(paced, 4.2))
    real = (paced.stats("paced")["succeeded"] - done) / (time.monotonic() - began)
    lane = sampler.lane("paced")
    assert lane.measured == pytest.approx(real, rel=0.25)
    assert (lane.workers, lane.loaded) == (1, 1)
    assert lane.start_seconds() == pytest.approx(lane.ahead() / lane.measured)
    assert lane.estimated == pytest.approx(real, rel=0.5)
    assert worker.stop() == 0
    assert asyncio.run(sampled(paced, 0.0)).lane("paced").workers == 0, "it took leave"
