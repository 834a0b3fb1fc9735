"""A job of the first band is in the next batch, whatever of a bulk is reserved already."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.jobs.job import Job
from tests.support.stack import Stack, wait_until

BATCH, SLEEP_MS = 4, 1500
CATALOG = f"""\
models:
  echo:
    handler: echo
    input: json
    max_batch: {BATCH}
    run_identical_once: false
"""


@pytest.mark.slow
def test_a_job_of_the_first_band_displaces_what_is_reserved(stack: Stack, tmp_path: Path) -> None:
    catalog = tmp_path / "models.yaml"
    catalog.write_text(CATALOG)
    worker = stack.worker("echo", LANEFLEET_CATALOG=str(catalog))
    stack.await_worker(worker)
    params = {"sleep_ms": SLEEP_MS}
    stack.publish([Job("echo", n, params=params, priority=6) for n in range(10 * BATCH)])
    wait_until(lambda: stack.stats().get("succeeded", 0) == BATCH, 30, "the first batch")
    (urgent,) = stack.publish([Job("echo", "urgent", params=params)])
    wait_until(lambda: stack.states([urgent]).get("succeeded"), 30, "the urgent one")
    # The batch that ran when it came, and its own; the one that was reserved waits.
    assert stack.stats()["succeeded"] <= 3 * BATCH
