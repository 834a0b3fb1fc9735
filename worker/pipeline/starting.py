"""What is decided of a job just before the device gets it: whether it is still wanted, and a
suspect's attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis.exceptions import RedisError

from common.errors import JobExpired
from common.redis.trouble import TROUBLE
from worker.jobs.execution import Execution
from worker.jobs.leases import LaneLeases
from worker.jobs.steps import require_prompt
from worker.lanes.lane import Lane
from worker.lanes.state import WorkerState
from worker.pipeline.decode_pool import DecodePool
from worker.pipeline.finisher import Finisher


class Starting:
    """Called on the device's thread."""

    def __init__(
        self,
        state: WorkerState,
        leases: Mapping[str, LaneLeases],
        finisher: Finisher,
        decode_pool: DecodePool,
        is_revoked: Callable[[str], bool],
        has_revoked_stamp: Callable[[Mapping[str, Any]], bool] = lambda _stamps: False,
    ) -> None:
        self._state = state
        self._leases = leases
        self._finisher = finisher
        self._decode_pool = decode_pool
        self._is_revoked = is_revoked
        self._has_revoked_stamp = has_revoked_stamp

    def is_revoked(self, execution: Execution) -> bool:
        """Whether a Celery client revoked it, by its id or by a stamp."""
        stamps = execution.stamps
        return self._is_revoked(execution.job_id) or bool(
            stamps and self._has_revoked_stamp(stamps)
        )

    def end_unwanted(self, lane: Lane, executions: Sequence[Execution]) -> dict[bytes, Execution]:
        """End those that were revoked, expired or lost since they were reserved; by their tags."""
        now, is_revoked = lane.server_time(), self._is_revoked
        for execution in executions:
            if execution.disposition is not None:
                continue
            # As `is_revoked`, whose call would be one more for each job.
            if is_revoked(execution.job_id) or (execution.stamps and self.is_revoked(execution)):
                execution.disposition = "canceled"
            elif execution.expires_at is not None and execution.expires_at <= now:
                execution.disposition = "expired"
                execution.error = JobExpired("the deadline passed before the job could start")
        # Asked once: a cancel may end any of them meanwhile, which then would be in neither part.
        unwanted = {one.tag: one for one in executions if one.disposition is not None}
        if unwanted:
            self._finisher.submit_ended(lane, list(unwanted.values()))
        return unwanted

    def start_suspect(self, lane: Lane, suspect: Execution) -> bool:
        """Count its attempt, then decode it; false where it has ended by that."""
        try:
            number = self._leases[lane.name].start(suspect.tag, suspect.job_id, lane.result_ttl)
        except RedisError as exc:
            TROUBLE.note("starting a suspect", exc, lane=lane.name)
            number = 0
        if number <= 0:
            suspect.disposition = "lost"
            self._state.released(lane, [suspect])
            return False
        suspect.attempt = number
        if lane.split is not None:
            self._state.assign(lane, [suspect], keep=False)
        self._decode_pool.run_one(lane, suspect)
        if lane.admission is not None:
            require_prompt(suspect)
        if suspect.disposition is not None:
            self._finisher.submit_ended(lane, [suspect])
            return False
        return True
