"""A device that works by itself: the next batch starts while one runs; errors stay apart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from common.jobs.job import Job
from tests.support.stack import Process, Stack, wait_until

BATCH, BATCH_MS = 8, 30


@pytest.fixture
def worker(stack: Stack) -> Process:
    """One worker with a device whose batches take 30 ms."""
    model = {
        "handler": "tests.support.handlers:Flying",
        "max_batch": BATCH,
        "run_identical_once": False,
        "options": {"batch_ms": BATCH_MS},
    }
    path = Path(stack.folder) / "models.yaml"
    path.write_text(yaml.safe_dump({"models": {"flying": model}}))
    stack.environment["LANEFLEET_CATALOG"] = str(path)
    return stack.worker("", LANEFLEET_MAX_ATTEMPTS="1")


def test_the_next_batch_is_started_while_one_runs_and_errors_stay_apart(
    stack: Stack, worker: Process
) -> None:
    params = {40: {"fail_later": True}, 152: {"fail_now": True}, 153: {"fail_later": True}}
    ids = stack.publish([Job("flying", n, params.get(n, {})) for n in range(20 * BATCH)])
    wait_until(lambda: not stack.states(ids).keys() & {"queued", "running"}, 30, "all settled")
    records = [stack.record(one) for one in ids]
    reasons = {n: one.reason for n, one in enumerate(records) if one and one.state == "failed"}
    assert set(reasons) == {40, 152, 153}, "nobody is charged for another's error"
    results = Counter(one.result for one in records if one and one.state == "succeeded")
    assert set(results) == {1, 2}, "one batch runs, one more is queued behind it, never two"
    assert results[2] > results[1], "most were started while another ran"

    ids = stack.publish([Job("flying", n) for n in range(3)])
    wait_until(lambda: stack.states(ids) == {"succeeded": 3}, 20, "a batch with nothing behind it")
    assert worker.stop() == 0, worker.output()
