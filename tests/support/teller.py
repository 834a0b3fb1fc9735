"""A worker by hand: it holds one job of a lane and says what a test has it say."""

from __future__ import annotations

import time
from typing import Any

import orjson
from redis import Redis

from common.jobs.result_document import Stamp
from common.settings import Settings
from tests.support.stack import wait_until
from worker.jobs.lease_calls import FinishedJob, SaidJob
from worker.jobs.leases import LaneLeases, Lease, LeasePolicy

USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


class Teller:
    """Holds the next job of the lane, once there is one."""

    def __init__(self, client: Redis, lane: str, flight: str = "") -> None:
        self._leases = LaneLeases(client, lane, "by-hand", LeasePolicy.of(Settings()))
        self._lane = lane
        self._flight = flight
        self._lease: Lease = wait_until(self._reserve, 20, "a job")
        self.job_id = str(orjson.loads(self._lease.message)["headers"]["id"])
        self.number = 0
        self.text: dict[int, str] = {}

    def _reserve(self) -> Lease | None:
        found = self._leases.reserve(1, 3600).leases
        return found[0] if found else None

    def say(self, text: str, choice: int = 0, finish: str | None = None, **more: Any) -> None:
        """Write the next entry of its stream."""
        said = {"i": choice, "t": [len(text)], "x": text, **({"f": finish} if finish else {})}
        self.say_all([{**said, **more}])

    def say_all(self, choices: list[dict[str, Any]]) -> None:
        """Write an entry with what several choices say."""
        self.number += 1
        for one in choices:
            self.text[one["i"]] = self.text.get(one["i"], "") + one["x"]
        job = SaidJob(self._lease.tag, self.job_id, self.number, 60, orjson.dumps({"c": choices}))
        assert not self._leases.say([job])

    def finish(self, finish: str = "length", **more: Any) -> None:
        """Settle the job with what was said."""
        ends = [{"text": text, "finish_reason": finish} for _, text in sorted(self.text.items())]
        result = {"text": "", "finish_reason": finish, "usage": USAGE, "seed": 1}
        result |= ends[0] if ends else {}
        if len(ends) > 1:
            result["choices"] = ends
        now_ms = int(time.time() * 1000)
        stamp = Stamp(self._lane, "1", "by-hand", 1, 5.0, now_ms)
        meta = stamp.success(
            orjson.dumps(result | more), self.job_id, 1, self._lease.created_ms, now_ms, ""
        )
        self._end(meta)

    def fail(self, reason: str, error: str) -> None:
        """Settle the job without a result."""
        now_ms = int(time.time() * 1000)
        stamp = Stamp(self._lane, "1", "by-hand", 1, 5.0, now_ms)
        meta = stamp.failure(
            *(self.job_id, 1, self._lease.created_ms, now_ms, ""),
            exc_type="PromptTooLong", step="decode", reason=reason, error=error,
        )  # fmt: skip
        self._end(meta)

    def _end(self, meta: bytes) -> None:
        job = FinishedJob(self._lease.tag, self.job_id, meta, "", self._flight)
        self._leases.finish([job], 3600)
