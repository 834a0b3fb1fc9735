"""Runs the lines of one batch: feeds them, collects their results in order, writes them down.

Restart-safe by what it does not keep: lines are fed from where the files end, under ids that are
always the same, and the files and that position move in one step.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import redis.asyncio

from common.batches.answers import answer_line, unfinished_line
from common.batches.files import Files
from common.batches.lines import LineError, LineReader, Request, errors_json
from common.batches.records import BatchRecord, BatchStatus
from common.errors import InputStoreUnavailable
from common.jobs.job import Job
from common.jobs.record import JobState
from common.jobs.script_calls import CancelCall
from common.redis.scripts import AsyncScripts
from common.settings import Settings
from worker.courier.batches.counts import BatchCounts
from worker.courier.batches.feeder import JOBS_PER_CALL, Feeder
from worker.courier.batches.input_lines import InputLine, InputLines
from worker.courier.batches.ledger import Ledger
from worker.courier.batches.output import RUNNING, Output
from worker.courier.batches.pace import Pace
from worker.courier.batches.results import Results

_LARGE_BYTES = 256 * 1024
_PAUSES_SECONDS = (0.02, 0.5)
_STALLED_SECONDS = 10.0
"""Without a result for so long, the jobs under way are enqueued again: Redis may have lost them."""
_CANCELS_AT_ONCE = 16
_UNDONE = (JobState.CANCELED, JobState.EXPIRED)


class BatchWork:
    """One run of one batch's lines."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        ledger: Ledger,
        files: Files,
        reader: LineReader,
        record: BatchRecord,
        settings: Settings,
        counts: BatchCounts,
        pace: Pace,
    ) -> None:
        self._scripts = AsyncScripts(client)
        self._ledger = ledger
        self._reader = reader
        self._record = record
        self._settings = settings
        self._input = InputLines(files, record.input_file, record.line, record.offset)
        self._feeder = Feeder(client, settings, pace)
        self._results = Results(client)
        self.output = Output(client, ledger, files, record, counts)
        self._read_all = False
        self._turn_ends = time.monotonic() + settings.batch_turn_seconds

    async def run(self) -> BatchStatus | None:
        """Work until all is done, or the batch is canceled or expired; returns how it is to end, or
        None where its turn is over.

        Raises NotHeld, RedisError or InputStoreUnavailable; then all that was written down stays.
        """
        pause, moved_at = _PAUSES_SECONDS[0], time.monotonic()
        while not (self._read_all and not len(self._results)):
            if await self._ledger.status() is BatchStatus.CANCELLING:
                await self._stop("canceled")
                return BatchStatus.CANCELLED
            if self._ledger.now_ms >= self._record.expires_ms:
                await self._stop("expired")
                await self._write_unfinished()
                return BatchStatus.EXPIRED
            if await self._turn_is_over():
                await self.output.write()
                return None
            fed = await self._feed()
            if await self._collect():
                pause, moved_at = _PAUSES_SECONDS[0], time.monotonic()
            elif time.monotonic() - moved_at > _STALLED_SECONDS:
                moved_at = time.monotonic()
                await self._feeder.send(self._results.unanswered())
            elif not fed:
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _PAUSES_SECONDS[1])
            if self.output.is_due(self._record.window_jobs):
                await self.output.write()
            await self.output.show()
        await self.output.write()
        return BatchStatus.COMPLETED

    async def _turn_is_over(self) -> bool:
        """Whether it had its time, and other batches wait for a courier."""
        if time.monotonic() < self._turn_ends:
            return False
        self._turn_ends = time.monotonic() + self._settings.batch_turn_seconds
        return await self._ledger.others_wait()

    async def _feed(self) -> bool:
        """Feed some lines; returns whether there were any."""
        if self._feeder.refused:
            await self._feeder.send_refused()
            return False
        jobs: list[Job] = []
        last = -1
        while len(jobs) < JOBS_PER_CALL and self._has_room():
            line = await self._input.next()
            if line is None:
                self._read_all = True
                break
            request = await self._read(line)
            self._results.add(request)
            jobs += request.jobs
            last = line.number
        if jobs:
            await self._ledger.move(RUNNING, {"fed": last + 1})
            await self._feeder.send(jobs)
        return last >= 0

    def _has_room(self) -> bool:
        results = self._results
        return (
            len(results) < self._record.window_jobs
            and results.jobs < self._record.window_jobs
            and results.sent_bytes < self._settings.batch_window_bytes
        )

    async def _read(self, line: InputLine) -> Request:
        if len(line.text) > _LARGE_BYTES:
            return await asyncio.to_thread(self._reader.read, line.text, line.number, line.end)
        return self._reader.read(line.text, line.number, line.end)

    async def _collect(self) -> bool:
        """Take over the results of the first lines; returns whether any line ended."""
        await self._results.look()
        ended = False
        while (answered := self._results.pop()) is not None:
            self._answer(*answered)
            ended = True
        return ended

    def _answer(self, request: Request, records: list[Any]) -> None:
        # By the clock of who runs the jobs their time, which is the batch's, is over already.
        if any(record.state is JobState.EXPIRED for record in records):
            self._answer_unfinished(request.number, request.custom_id, request.end)
            return
        succeeded, line = answer_line(self._record.id, self._record.endpoint, request, records)
        self.output.add(succeeded, line, [job.id for job in request.jobs])
        self.output.pass_by(request.number, request.end)

    async def _stop(self, state: str) -> None:
        """End what is under way, that of a run before as well, and write down what was done."""
        try:
            await self._read_fed()
        except InputStoreUnavailable as exc:  # it must end all the same
            await self._note_unread(exc)
        left = [job.id for job in self._results.unanswered()]
        for first in range(0, len(left), _CANCELS_AT_ONCE):
            part = left[first : first + _CANCELS_AT_ONCE]
            await asyncio.gather(*(self._cancel(one, state) for one in part))
            await self._results.read(part)
        while len(self._results):
            request, records = self._results.pop_anyway()
            done = len(records) == len(request.jobs)
            undone = any(record.state in _UNDONE for record in records)
            if done and not undone:
                self._answer(request, records)
            elif state == "expired":
                self._answer_unfinished(request.number, request.custom_id, request.end)
            self.output.pass_by(request.number, request.end)
        await self.output.write()

    async def _read_fed(self) -> None:
        fed = (await self._ledger.read()).fed
        while not self._read_all and self._input.number < fed:
            line = await self._input.next()
            if line is None:
                break
            self._results.add(await self._read(line))

    async def _note_unread(self, error: InputStoreUnavailable) -> None:
        """Say why lines are in neither file."""
        number = self._input.number + 1
        text = f"from this line on the input could not be read when the batch ended: {error}"
        errors = errors_json([LineError("input_unreadable", number, text, "input_file_id")])
        await self._ledger.move(RUNNING, {"errors": errors})

    async def _cancel(self, job_id: str, state: str) -> None:
        call = CancelCall(job_id, self._settings.result_ttl_seconds, state)
        await self._scripts.run("cancel", (), call)

    async def _write_unfinished(self) -> None:
        """Write an error line for each line that was never fed."""
        try:
            while (line := await self._input.next()) is not None:
                custom_id = orjson.loads(line.text)["custom_id"]
                self._answer_unfinished(line.number, custom_id, line.end)
                if self.output.is_due(self._record.window_jobs):
                    await self.output.write()
        except InputStoreUnavailable as exc:
            await self._note_unread(exc)
        await self.output.write()

    def _answer_unfinished(self, number: int, custom_id: str, end: int) -> None:
        text = unfinished_line(self._record.id, number, custom_id, self._record.window)
        self.output.add(False, text, ())
        self.output.pass_by(number, end)
