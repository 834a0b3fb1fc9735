"""Errors inside a batch: the guilty pay, the innocent succeed, the step is named."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import pytest
from PIL import Image

from common.jobs.job import Job
from tests.support.lanes import LANE, RecordedLane, await_settled
from tests.support.stack import Stack, wait_until


def test_an_exception_splits_the_batch_until_the_guilty_is_alone(stack: Stack) -> None:
    lane = RecordedLane.on(stack, LANEFLEET_MAX_ATTEMPTS="1")
    jobs = [Job(LANE, f"n{n}") for n in range(16)]
    jobs[11] = Job(LANE, "guilty", {"fail": "no such token"})
    ids = stack.publish(jobs)
    stack.worker(LANE)
    await_settled(stack, ids, 20)
    assert stack.states(ids) == {"succeeded": 15, "failed": 1}
    guilty = stack.record(ids[11])
    assert guilty is not None
    assert "no such token" in (guilty.error or "")
    # 16, 8+8, 4+4, 2+2, 1+1: a job runs at most once per halving.
    assert max(lane.executions().values()) <= 5


def test_out_of_memory_halves_the_batch_and_the_cap_is_remembered(stack: Stack) -> None:
    lane = RecordedLane.on(stack)
    worker = stack.worker(LANE)
    ids = stack.publish([Job(LANE, f"n{n}", {"oom_above": 8}) for n in range(32)])
    await_settled(stack, ids, 20)
    assert stack.states(ids) == {"succeeded": 32}
    report = stack.await_worker(worker)
    wait_until(lambda: stack.await_worker(worker).lanes[LANE].max_batch <= 16, 20, "a lower cap")
    tried = len(lane.batch_sizes())
    more = stack.publish([Job(LANE, f"m{n}", {"oom_above": 8}) for n in range(32)])
    await_settled(stack, more, 20)
    assert max(lane.batch_sizes()[tried:]) <= 16, "it does not try 32 again"
    assert report.fenced == 0


def test_errors_name_the_step_that_failed(stack: Stack) -> None:
    RecordedLane.on(stack, LANEFLEET_MAX_ATTEMPTS="1")
    ids = stack.publish(
        [
            Job(LANE, "a", {"bad": True}),
            Job(LANE, "b", {"fail": "boom"}),
            Job(LANE, "nan"),
            Job(LANE, "fine"),
        ]
    )
    stack.worker(LANE)
    await_settled(stack, ids, 20)
    records = [stack.record(one) for one in ids]
    assert [r.state for r in records if r] == ["failed", "failed", "failed", "succeeded"]
    assert records[0] is not None
    assert records[0].reason == "decode_failed"
    assert records[1] is not None
    assert "infer failed: RuntimeError: boom" in (records[1].error or "")
    assert records[2] is not None
    assert records[2].reason == "encode_failed"


def test_a_failed_attempt_is_retried_later_and_alone(stack: Stack) -> None:
    lane = RecordedLane.on(stack, LANEFLEET_MAX_ATTEMPTS="2", LANEFLEET_RETRY_BASE_SECONDS="2")
    stack.worker(LANE)
    ids = stack.publish([Job(LANE, f"n{n}", {"fail": "flaky"} if n == 0 else {}) for n in range(4)])
    wait_until(lambda: stack.states(ids).get("succeeded") == 3, 20, "the innocent")
    record = stack.record(ids[0])
    assert record is not None
    assert record.state == "queued", "it waits for its backoff"
    await_settled(stack, ids, 20)
    record = stack.record(ids[0])
    assert record is not None
    assert (record.attempts, record.reason) == (2, "attempts_exhausted")
    assert lane.batch_sizes()[-1] == 1


def picture(width: int = 40, height: int = 30) -> bytes:
    """A PNG; of more than its own pixels where these are named in its header."""
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 50).save(buffer, "PNG")
    png = bytearray(buffer.getvalue())
    png[16:24] = struct.pack(">II", width, height)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    return bytes(png)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_corrupt_a_too_large_and_a_hanging_picture_fail_alone(stack: Stack, threads: int) -> None:
    """Of a batch of 32; also where the reserving thread decodes by itself."""
    catalog = stack.folder / "models.yaml"
    catalog.write_text(
        "models:\n  pictures:\n    handler: tests.support.handlers:Looker\n    input: image\n"
        "    max_batch: 32\n"
    )
    stack.environment |= {
        "LANEFLEET_CATALOG": str(catalog),
        "LANEFLEET_DECODE_TIMEOUT_SECONDS": "4",
        "LANEFLEET_DECODE_THREADS": str(threads),
    }
    worker = stack.worker("pictures")
    pictures = [picture() for _ in range(32)]
    pictures[5] = pictures[5][:500]
    pictures[21] = picture(30_000, 30_000)
    ids = stack.publish(_picture_jobs(pictures, hanging=20))
    await_settled(stack, ids, 20)
    assert stack.states(ids) == {"succeeded": 29, "failed": 3}
    records = [stack.record(one) for one in ids]
    reasons = {at: one.reason for at, one in enumerate(records) if one and one.reason}
    assert reasons == {5: "invalid_input", 20: "decode_timeout", 21: "input_too_large"}
    more = stack.publish(_picture_jobs([picture()] * 32))
    await_settled(stack, more, 10)
    assert stack.states(more) == {"succeeded": 32}, "the worker goes on"
    assert worker.stop() == 0


def _picture_jobs(pictures: list[bytes], hanging: int | None = None) -> list[Job]:
    return [
        Job(
            "pictures",
            {"image": base64.b64encode(content).decode()},
            {"hang": True} if at == hanging else {},
        )
        for at, content in enumerate(pictures)
    ]


def test_a_lost_device_ends_the_worker_and_only_the_guilty_pays(stack: Stack) -> None:
    lane = RecordedLane.on(stack, LANEFLEET_MAX_ATTEMPTS="2", LANEFLEET_LEASE_SECONDS="2")
    jobs = [Job(LANE, f"n{n}") for n in range(7)]
    jobs.append(Job(LANE, "guilty", {"fail": "CUDA error: an illegal memory access"}))
    ids = stack.publish(jobs)
    for _ in range(4):
        worker = stack._start("worker", ["-m", "worker"], LANE, {})
        wait_until(lambda one=worker: not one.alive or settled(stack, ids), 60, "an end")
        if settled(stack, ids):
            break
        assert worker.popen.wait(20) == 1, "not 0, so that whoever watches over it starts another"
    assert stack.states(ids) == {"succeeded": 7, "failed": 1}
    guilty = stack.record(ids[7])
    assert guilty is not None
    assert guilty.reason == "attempts_exhausted"
    assert max(lane.executions().values()) <= 3


def settled(stack: Stack, ids: list[str]) -> bool:
    """Whether all of these have come to their end."""
    return set(stack.states(ids)) <= {"succeeded", "failed", "dead"}
