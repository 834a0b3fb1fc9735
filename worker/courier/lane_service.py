"""Serves one system lane: reserves, has its runner run the jobs, settles them, keeps the leases.

The decisions of model lanes (batches, suspects, attempts) have no place here: a job runs alone
in a task of the event loop, and its runner says when it is to be run again.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from redis.exceptions import RedisError

from common.redis.ending import end_tasks
from common.redis.trouble import TROUBLE
from worker.courier.jobs import CourierJob, Done, Later, Outcome, Runner
from worker.courier.leases import CourierLeases, result_of
from worker.jobs.execution import Execution
from worker.jobs.lease_calls import FinishedJob, ReleasedJob, RetryJob
from worker.jobs.leases import Lease
from worker.jobs.message import parse

log = structlog.get_logger(__name__)

_IDLE_SECONDS = 0.25
_REDIS_PAUSE_SECONDS = 0.5
_RAISED_DELAY_MS = 5_000
_PER_RESERVATION = 128
_AWAY = (RedisError, OSError, TimeoutError)


class LaneService:
    """One lane and its runner."""

    def __init__(
        self,
        leases: CourierLeases,
        runner: Runner,
        renew_seconds: float,
        reap_seconds: float,
    ) -> None:
        self.runner = runner
        self.work = asyncio.Event()
        """Set by who has put a job into the lane, so that it need not be polled for."""
        self.redis_answered = time.monotonic()
        self._failing = False
        """Whether Redis was in trouble lately."""
        self._leases = leases
        self._renew_seconds = renew_seconds
        self._reap_seconds = reap_seconds
        self._tasks: dict[bytes, tuple[CourierJob, asyncio.Task[None]]] = {}
        self._ended: list[tuple[CourierJob, Outcome]] = []
        self._some_ended = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def in_hand(self) -> int:
        """Jobs that are leased now."""
        return len(self._tasks)

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until told to stop; jobs that have not ended are returned to the lane then."""
        await self.runner.start()
        loops = [
            asyncio.create_task(self._forever(self._renew, self._renew_seconds)),
            asyncio.create_task(self._forever(self._leases.reap, self._reap_seconds)),
            asyncio.create_task(self._settle_forever()),
        ]
        try:
            while not stopping.is_set():
                await self._serve_once(stopping)
                for loop in loops:
                    if loop.done():  # a fault: without it the jobs in hand would stay there
                        loop.result()
        finally:
            await self._leave(loops)

    async def _serve_once(self, stopping: asyncio.Event) -> None:
        room = min(self.runner.concurrency - len(self._tasks), _PER_RESERVATION)
        if room <= 0:
            self._room.clear()
            await _wait(self._room, _IDLE_SECONDS)
            return
        self.work.clear()
        try:
            leases = await self._leases.reserve(room)
            jobs = [job for lease in leases if (job := self._job_of(lease))]
            if jobs:
                await self.runner.prepare(jobs)
        except _AWAY as exc:
            self._note("reserving", exc)
            await _wait(stopping, _REDIS_PAUSE_SECONDS)
            return
        self._answered()
        for job in jobs:
            self._tasks[job.tag] = (job, asyncio.create_task(self._run(job)))
        if not leases:
            await _wait(self.work, _IDLE_SECONDS)

    def _note(self, during: str, error: Exception) -> None:
        self._failing = True
        TROUBLE.note(during, error, lane=self._leases.lane)

    def _answered(self) -> None:
        self.redis_answered = time.monotonic()
        if self._failing:
            self._failing = not TROUBLE.over()

    def _job_of(self, lease: Lease) -> CourierJob | None:
        """The job of a lease; one that cannot be read is settled."""
        lane = self._leases.lane
        read: Execution = parse(lease, lane, 0.0)
        job = CourierJob(lane, read.job_id, lease.tag, lease.tenant, read.value, lease.created_ms)
        if read.disposition is None:
            return job
        log.error("courier_job_unreadable", lane=lane, job_id=read.job_id, error=str(read.error))
        self._end(job, Done())
        return None

    async def _run(self, job: CourierJob) -> None:
        try:
            outcome = await self.runner.run(job)
        except asyncio.CancelledError:
            raise
        except _AWAY as exc:
            self._note("running a job", exc)
            outcome = Later(_RAISED_DELAY_MS)
        except Exception:
            log.exception("courier_job_raised", lane=job.lane, job_id=job.id)
            outcome = Later(_RAISED_DELAY_MS)
        if job.tag in self._tasks:
            self._end(job, outcome)

    def _end(self, job: CourierJob, outcome: Outcome) -> None:
        self._ended.append((job, outcome))
        self._some_ended.set()

    async def _settle_forever(self) -> None:
        while True:
            await self._some_ended.wait()
            self._some_ended.clear()
            try:
                await self._settle()
            except _AWAY as exc:
                self._note("settling", exc)
                await asyncio.sleep(_REDIS_PAUSE_SECONDS)
                self._some_ended.set()

    async def _settle(self) -> None:
        """Settle what has ended, all at once. Raises where Redis does not answer, or it is
        canceled: then all of it is still to be settled, and settling it twice changes nothing.
        """
        ended = list(self._ended)
        if not ended:
            return
        await self.runner.note(ended)
        await self._write(ended)
        self.redis_answered = time.monotonic()
        del self._ended[: len(ended)]
        for job, _ in ended:
            self._tasks.pop(job.tag, None)
        self._room.set()

    async def _write(self, ended: list[tuple[CourierJob, Outcome]]) -> None:
        done = [(job, one) for job, one in ended if isinstance(one, Done)]
        later = [(job, one) for job, one in ended if isinstance(one, Later)]
        if done:
            await self._leases.finish(
                [
                    FinishedJob(job.tag, job.id, result_of(one.result), job.tenant)
                    for job, one in done
                ]
            )
        if later:
            await self._leases.retry(
                [
                    RetryJob(job.tag, job.id, delay_ms=one.delay_ms, unread="1", uncount="1")
                    for job, one in later
                ]
            )

    async def _forever(self, step: object, seconds: float) -> None:
        assert callable(step)
        while True:
            await asyncio.sleep(seconds)
            try:
                await step()
                self.redis_answered = time.monotonic()
            except _AWAY as exc:
                self._note("keeping leases", exc)

    async def _renew(self) -> None:
        ending = {job.tag for job, _ in self._ended}  # their leases may be over already
        tags = [tag for tag in self._tasks if tag not in ending]
        for tag in await self._leases.renew(tags) if tags else ():
            job, task = self._tasks.pop(tag, (None, None))
            if task is not None and job is not None:
                log.warning("courier_lease_lost", lane=job.lane, job_id=job.id)
                task.cancel()

    async def _leave(self, loops: list[asyncio.Task[None]]) -> None:
        if self._tasks and self.runner.leave_seconds:
            await asyncio.wait(
                [task for _, task in self._tasks.values()], timeout=self.runner.leave_seconds
            )
        await end_tasks(*loops)
        ending = {job.tag for job, _ in self._ended}
        running = [(job, task) for tag, (job, task) in self._tasks.items() if tag not in ending]
        await end_tasks(*(task for _, task in running))
        try:
            await self._settle()
            if running:
                await self._leases.release(
                    [ReleasedJob(job.tag, job.id, True) for job, _ in running]
                )
        except _AWAY as exc:
            log.warning("courier_left_leases", lane=self._leases.lane, error=str(exc))
        await self.runner.stop()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
