"""How many jobs a lane asks for, and that a tenant with none here need not wait for a batch."""

from __future__ import annotations

import pytest

from common.catalog import ModelSpec
from common.jobs.record import JobRecord
from worker.jobs.leases import Lease
from worker.jobs.message import parse
from worker.lanes.lane import Lane


@pytest.fixture
def lane() -> Lane:
    spec = ModelSpec(name="model", handler="echo", max_batch=32)
    made = Lane("model", spec, result_ttl_seconds=60, look_ahead_jobs=256, max_fetching=64)
    made.handler = object()  # type: ignore[assignment]  # any will do
    return made


def test_a_deep_lane_is_looked_ahead_into_and_a_newcomer_gets_one_batch_more(lane: Lane) -> None:
    lane.backlog, lane.waiting = 100_000, 256
    assert lane.room() == 0
    lane.starved = True
    assert lane.room() == 32
    lane.waiting = 256 + 32
    assert lane.room() == 0, "and no more than that, however many are starved"


def test_a_shallow_lane_makes_room_for_a_newcomer_too(lane: Lane) -> None:
    lane.backlog, lane.waiting = 40, 32
    assert lane.room() == 0
    lane.starved = True
    assert lane.room() == 32


def test_a_model_that_is_not_here_makes_room_for_nobody(lane: Lane) -> None:
    lane.handler, lane.starved = None, True
    assert lane.room() == 0


@pytest.mark.parametrize(
    ("origin", "created_ms", "tenant"), [(b"0", 0, ""), (b"17", 17, ""), (b"17:acme", 17, "acme")]
)
def test_a_lease_tells_when_its_job_came_and_whose_it_is(
    origin: bytes, created_ms: int, tenant: str
) -> None:
    lease = Lease(b"tag:1", 1, origin, b"not a message")
    assert (lease.created_ms, lease.tenant) == (created_ms, tenant)
    execution = parse(lease, "model", 0.0)
    assert (execution.created_ms, execution.tenant) == (created_ms, tenant)


@pytest.mark.parametrize(
    ("record", "tenant"), [(b"q echo 17:acme", "acme"), (b"q echo 17", ""), (None, "")]
)
def test_a_result_that_another_celery_worker_stored_is_still_its_tenants(
    record: bytes | None, tenant: str
) -> None:
    found = JobRecord.read("job", record, b'{"status":"SUCCESS","result":1}')
    assert found is not None
    assert (found.tenant, found.result) == (tenant, 1)
