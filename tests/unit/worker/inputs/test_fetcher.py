"""What the fetcher delivers, whatever becomes of a job meanwhile."""

from __future__ import annotations

import pytest

from common.catalog import ModelSpec
from common.settings import Settings
from tests.support.stack import wait_until
from worker.inputs.fetcher import InputFetcher
from worker.jobs.execution import Execution
from worker.lanes.lane import Lane


def test_a_job_canceled_while_its_fetch_goes_wrong_is_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = ModelSpec(name="m", handler="echo")
    lane = Lane("m", spec, result_ttl_seconds=60, look_ahead_jobs=256, max_fetching=8)
    one = Execution(b"one:1", 1, 0, "one", 0.0)
    one.input_url = "http://example.com/"

    async def canceled_meanwhile(_url: str) -> bytes:
        one.disposition = "lost"
        raise RuntimeError("a fault of ours")

    fetcher = InputFetcher(Settings(), None)
    monkeypatch.setattr(fetcher._urls, "fetch", canceled_meanwhile)
    delivered: list[Execution] = []
    fetcher.start(lambda _lane, execution: delivered.append(execution))
    fetcher.request(lane, [one])
    wait_until(lambda: delivered, 10, "the delivery")
    fetcher.stop()
    fetcher._thread.join(10)
    fetcher._loop.close()
    assert [execution.disposition for execution in delivered] == ["lost"]
