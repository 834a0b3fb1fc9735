"""What the fetcher delivers, whatever becomes of a job meanwhile."""

from __future__ import annotations

import asyncio

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


def test_servers_that_hang_for_one_tenant_leave_slots_and_room_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = ModelSpec(name="m", handler="echo")
    lane = Lane(
        "m", spec, result_ttl_seconds=60, look_ahead_jobs=256, max_fetching=8, tenant_share=0.5
    )
    lane.handler = object()  # type: ignore[assignment]
    hanging: list[str] = []

    async def fetch(url: str) -> bytes:
        if "hang" in url:
            hanging.append(url)
            await asyncio.Event().wait()
        return b"picture"

    def wanting(number: int, tenant: str, url: str) -> Execution:
        one = Execution(b"one:1", 1, 0, f"{tenant}-{number}", 0.0)
        one.tenant, one.input_url = tenant, url
        return one

    fetcher = InputFetcher(Settings(fetch_concurrency=8), None, 0.5)
    monkeypatch.setattr(fetcher._urls, "fetch", fetch)
    delivered: list[Execution] = []
    fetcher.start(lambda _lane, execution: delivered.append(execution))
    for number in range(200):
        if lane.may_fetch("acme"):
            lane.fetching["acme"] += 1
            fetcher.request(lane, [wanting(number, "acme", "http://hang/")])
    fetcher.request(lane, [wanting(0, "beta", "http://answers/")])
    wait_until(lambda: delivered, 10, "the other tenant's input")
    assert [one.job_id for one in delivered] == ["beta-0"]
    assert len(hanging) == 4, "half of the slots"
    assert lane.fetching["acme"] == 16, "the others are put off"
    assert lane.room() > 0
    assert lane.may_fetch("beta")
    fetcher.stop()
    fetcher._thread.join(10)
    fetcher._loop.close()
