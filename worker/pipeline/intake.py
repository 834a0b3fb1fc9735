"""Routes reserved jobs to the next stage.

Jobs that have ended are submitted to the finisher, jobs whose input is stored elsewhere to
the fetcher, and the rest to the decode pool, or they are decoded in the reserver's thread
where that is cheaper than handing them over. Decoded jobs wait in their lane for the device.

It has no thread: it runs on the reserver's, and its callbacks run on the threads of the
decode pool and the fetcher.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import RedisError

from common.inputs.blobs import STORED
from common.redis.keys import blob_key
from common.redis.trouble import TROUBLE
from worker.inputs.fetcher import InputFetcher
from worker.jobs.execution import Execution, Hold, Retry
from worker.jobs.lease_calls import LeadingJob
from worker.jobs.leases import LaneLeases, Reservation
from worker.jobs.message import parse
from worker.jobs.next_steps import NextSteps, kept_form, lineage_of
from worker.jobs.passage import Passage
from worker.jobs.steps import require_prompt
from worker.lanes.device_time import DeviceTime
from worker.lanes.lane import Lane
from worker.lanes.state import WorkerState
from worker.pipeline.decode_pool import Decoded, DecodePool
from worker.pipeline.finisher import Finisher
from worker.pipeline.said import read_said

log = structlog.get_logger(__name__)

_MODEL = attrgetter("handler")
_REDIS_PAUSE_SECONDS = 0.2
_FETCH_RETRY_MS = 5_000
"""When a job is looked at again whose tenant has too many that wait for an input."""
_READ_BYTES = 8 * 1024 * 1024
_INLINE_DECODE_SECONDS = 50e-6
"""Decoding that is cheaper than this per job costs less than handing it to another thread."""


class Intake:
    """Accepts reserved, fetched and decoded jobs, and routes them."""

    def __init__(
        self,
        state: WorkerState,
        client: Redis,
        finisher: Finisher,
        decode_pool: DecodePool,
        fetcher: InputFetcher,
        device_time: DeviceTime,
        leases: Mapping[str, LaneLeases],
        name_children: Callable[[NextSteps], list[Any]],
        max_unpacked_bytes: int,
    ) -> None:
        """name_children gives what next steps would start ids, and returns these as Celery stores
        them in a result; max_unpacked_bytes bounds a compressed message.
        """
        self._state = state
        self._client = client
        self._finisher = finisher
        self._decode_pool = decode_pool
        self._fetcher = fetcher
        self._device_time = device_time
        self._leases = leases
        self._name_children = name_children
        self._max_unpacked_bytes = max_unpacked_bytes
        self._fetched: list[tuple[Lane, Execution]] = []
        """Guarded by the state's lock."""

    @property
    def has_fetched(self) -> bool:
        """Whether fetched inputs wait to be routed. Call it holding the lock."""
        return bool(self._fetched)

    def accept(
        self, lane: Lane, reservation: Reservation, replace_caller: Callable[[], None]
    ) -> None:
        """Route the jobs of a reservation. Raises CallerReplaced (see DecodePool.run)."""
        executions = self.read(lane, reservation)
        ended, waiting = _parted(executions)
        with self._state.lock:
            lane.in_hand |= {one.tag: one for one in executions}
            lane.waiting -= len(ended)
        if not self._keep_next_steps(lane, executions):
            return
        if ended:
            self._finisher.submit_ended(lane, ended)
        waiting = self._delay_early(lane, waiting)
        if self._read_said(lane, waiting) and self._read_blobs(
            [one for one in waiting if one.has_blob]
        ):
            self._pass_on(lane, self._request_inputs(lane, waiting), replace_caller)

    def accept_fetched(self, replace_caller: Callable[[], None]) -> None:
        """Route jobs of one lane whose inputs have arrived.

        One lane per call, so that another thread can route the other lanes should decoding hang
        on this one. Raises CallerReplaced.
        """
        if not self._fetched:  # one that comes now ends the wait of this round
            return
        with self._state.lock:
            lane = self._fetched[0][0]
            taken = [one for its, one in self._fetched if its is lane]
            self._fetched = [(its, one) for its, one in self._fetched if its is not lane]
        self._pass_on(lane, taken, replace_caller)

    def hold(self, lane: Lane, reservation: Reservation) -> None:
        """Record these leases as held, without routing the jobs, so that shutdown releases them."""
        executions = self.read(lane, reservation)
        with self._state.lock:
            lane.in_hand |= {one.tag: one for one in executions}

    def fetched(self, lane: Lane, execution: Execution) -> None:
        """Queue a job whose input was fetched, or submit one that ended without its input.

        Called on the fetcher's thread.
        """
        ended = execution.disposition is not None
        with self._state.lock:
            lane.fetch_ended(execution.tenant)
            if not ended:
                lane.waiting += 1
                self._fetched.append((lane, execution))
            self._state.changed.notify_all()
        if ended:
            self._finisher.submit_ended(lane, [execution])

    def decoded(self, decoded: Decoded) -> None:
        """Add decoded jobs to their lane and submit those that failed to the finisher.

        Called on the thread that decoded them.
        """
        lane, executions = decoded.lane, decoded.executions
        if lane.admission is not None:
            for execution in executions:
                require_prompt(execution)
        ended, items = _parted(executions)
        now = time.monotonic()
        passage = Passage(executions[0].arrived, decoded.began, now, len(executions))
        beside = self._device_time.busy_at(now) - decoded.busy_before
        with self._state.lock:
            lane.waiting -= len(ended)
            if decoded.pooled:
                lane.decoding -= len(executions)
            for execution in items:
                execution.passage = passage
                lane.add(execution, now)
            lane.stats.stages.decoded(passage, len(executions), beside)
            self._state.changed.notify_all()
        for _, alike in groupby(ended, _MODEL):  # a result names the version of its group
            self._finisher.submit_ended(lane, list(alike))

    def read(self, lane: Lane, reservation: Reservation) -> list[Execution]:
        """The messages of a reservation; inputs that lie beside them are still missing."""
        now = time.monotonic()
        name, limit = lane.name, self._max_unpacked_bytes
        executions = [parse(lease, name, now, limit) for lease in reservation.leases]
        server_ms = reservation.server_ms
        alone = lane.generates or not lane.spec.run_identical_once  # what generates has its luck
        for execution in executions:
            execution.reserved_ms = server_ms
            if alone:
                execution.key = None
        lane.stats.stages.reserved(executions, reservation.server_ms)
        return executions

    def _request_inputs(self, lane: Lane, executions: list[Execution]) -> list[Execution]:
        """Submit jobs whose input is stored outside Redis to the fetcher; returns the others."""
        away = [one for one in executions if one.input_url is not None or one.stored]
        if not away:
            return executions
        fetched: list[Execution] = []
        put_off: list[Execution] = []
        with self._state.lock:
            lane.waiting -= len(away)
            for one in away:
                if lane.may_fetch(one.tenant):
                    lane.fetching[one.tenant] += 1
                    fetched.append(one)
                else:
                    one.disposition = Hold(_FETCH_RETRY_MS)
                    put_off.append(one)
        self._fetcher.request(lane, fetched)
        if put_off:
            self._finisher.submit_ended(lane, put_off)
        return [one for one in executions if one.input_url is None and not one.stored]

    def _pass_on(
        self, lane: Lane, waiting: list[Execution], replace_caller: Callable[[], None]
    ) -> None:
        """Decode jobs that have their input; a suspect is decoded later, when it runs alone."""
        suspects = [one for one in waiting if one.attempt > 1]  # `suspect`, without a call for each
        fresh = waiting
        if suspects:
            with self._state.lock:
                lane.suspects.extend(suspects)
                self._state.changed.notify_all()
            fresh = [one for one in waiting if not one.suspect]
        if fresh:
            self._decode(lane, fresh, replace_caller)

    def _decode(
        self, lane: Lane, executions: list[Execution], replace_caller: Callable[[], None]
    ) -> None:
        if lane.split is not None or lane.shadow is not None:
            executions = self._state.assign(lane, executions)
        slow = lane.stats.decode_seconds >= _INLINE_DECODE_SECONDS
        if not (slow and self._decode_pool.has_threads):
            self._decode_pool.run(lane, executions, replace_caller)
            return
        with self._state.lock:
            lane.decoding += len(executions)
        self._decode_pool.submit(lane, executions)

    def _keep_next_steps(self, lane: Lane, executions: list[Execution]) -> bool:
        """Have Redis keep what these lead to; false where the worker stops before that is done.

        Before any of them can be settled. Their leases are renewed meanwhile.
        """
        leading = [one for one in executions if one.next_steps and not _is_kept(one)]
        if not leading:
            return True
        for execution in leading:
            execution.lineage = self._name_successors(execution)
        jobs = [LeadingJob(one.tag, one.job_id, kept_form(one.next_steps or {})) for one in leading]
        while not self._state.stopping.is_set():
            try:
                self._leases[lane.name].lead(jobs)
            except RedisError as exc:
                TROUBLE.note("keeping what jobs lead to", exc)
                self._state.stopping.wait(_REDIS_PAUSE_SECONDS)
            else:
                return True
        return False

    def _name_successors(self, execution: Execution) -> bytes:
        """Give its successors their ids, so that its result can name them."""
        steps = execution.next_steps
        assert steps is not None
        try:
            children = self._name_children(steps)
        except Exception:
            # What is wrong with them is said where they would be sent.
            log.exception("children_unnamed", job_id=execution.job_id)
            return execution.lineage
        return lineage_of(steps, children)

    def _read_blobs(self, executions: list[Execution]) -> bool:
        """Read the inputs stored under blob keys; repeats until Redis answers.

        Returns False only when the worker stops first; shutdown then releases the jobs. Their
        leases are renewed meanwhile, so this may last until Redis is back.
        """
        while executions and not self._state.stopping.is_set():
            try:
                blobs = self._mget([blob_key(one.job_id) for one in executions])
            except RedisError as exc:
                TROUBLE.note("reading inputs", exc)
                self._state.stopping.wait(_REDIS_PAUSE_SECONDS)
                continue
            for execution, blob in zip(executions, blobs, strict=True):
                execution.stored = blob == STORED
                execution.blob = bytes(blob) if isinstance(blob, bytes) else None
            return True
        return not executions

    def _read_said(self, lane: Lane, executions: list[Execution]) -> bool:
        """Read what others have said of those that stream, to go on from there; as _read_blobs."""
        streams = [one for one in executions if one.params.get("stream") is True]
        if not (lane.generates and streams):
            return True
        while not self._state.stopping.is_set():
            try:
                read_said(self._client, streams)
            except RedisError as exc:
                TROUBLE.note("reading what was said", exc)
                self._state.stopping.wait(_REDIS_PAUSE_SECONDS)
            else:
                return True
        return False

    def _mget(self, keys: Sequence[str]) -> list[Any]:
        """The values; not many large ones in one call, in which Redis would serve nobody else."""
        found: list[Any] = []
        step = 1
        while len(found) < len(keys):
            values: Any = self._client.mget(keys[len(found) : len(found) + step])
            found += values
            size = sum(len(one) for one in values if one)
            step = step * 4 if size * 4 <= _READ_BYTES else max(1, step * _READ_BYTES // (size + 1))
        return found

    def _delay_early(self, lane: Lane, executions: list[Execution]) -> list[Execution]:
        """Return jobs whose ETA is in the future to Redis; returns the others."""
        now = lane.server_time()
        early: list[Execution] = []
        due: list[Execution] = []
        for execution in executions:
            is_early = execution.eta is not None and execution.eta > now
            (early if is_early else due).append(execution)
        if not early:
            return executions
        for execution in early:
            execution.disposition = Retry(at_ms=int((execution.eta or 0.0) * 1000))
        with self._state.lock:
            lane.waiting -= len(early)
        self._finisher.submit_ended(lane, early)
        return due


def _is_kept(execution: Execution) -> bool:
    """Whether Redis has its next steps since it was accepted: a webhook, where the front did."""
    steps = execution.next_steps or {}
    return execution.created_ms > 0 and len(steps) == 1 and "webhook" in steps


def _parted(executions: Sequence[Execution]) -> tuple[list[Execution], list[Execution]]:
    """Split into executions that have ended and the others. Each disposition is read once: a
    cancel may set one between two reads, and a job in neither list would be held forever.
    """
    ended: list[Execution] = []
    others: list[Execution] = []
    for execution in executions:
        (others if execution.disposition is None else ended).append(execution)
    return ended, others
