"""Reads a batch's input once through before anything of it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from common.batches.files import Files
from common.batches.lines import LineCheck, LineError, errors_json
from common.batches.records import BatchRecord, BatchStatus
from common.settings import Settings
from worker.courier.batches.end_event import end_event
from worker.courier.batches.ledger import Ledger


async def validate(ledger: Ledger, record: BatchRecord, files: Files, settings: Settings) -> None:
    """Move the batch on to `in_progress`, or to `failed` with what is wrong, by line.

    A batch that is canceled meanwhile stays so. Raises NotHeld, RedisError or
    InputStoreUnavailable.
    """
    check = LineCheck(record.endpoint, settings.batch_max_lines, settings.batch_max_line_bytes)
    if await files.get(record.input_file, record.tenant) is None:
        text = "the file was deleted, or expired, before it was read; upload it again"
        check.errors.append(LineError("input_file_gone", 0, text, "input_file_id"))
    else:
        await _read(files, record.input_file, check, settings.batch_max_line_bytes)
    if check.errors:
        ended_ms = await ledger.ask_time()
        failed = {
            "status": BatchStatus.FAILED,
            "failed_ms": ended_ms,
            "errors": errors_json(check.errors),
        }
        event = end_event(record, BatchStatus.FAILED, ended_ms)
        await ledger.move([BatchStatus.VALIDATING], failed, event=event)
        return
    begun = {
        "status": BatchStatus.IN_PROGRESS,
        "in_progress_ms": await ledger.ask_time(),
        "total": check.requests,
    }
    await ledger.move([BatchStatus.VALIDATING], begun)


async def _read(files: Files, file_id: str, check: LineCheck, max_line_bytes: int) -> None:
    rest = b""
    async for part in files.read(file_id):
        *lines, rest = (rest + part).split(b"\n")
        await asyncio.to_thread(_take_all, check, lines)
        if len(rest) > max_line_bytes:
            check.too_long()
            return
        if check.hopeless:
            return
    if rest:
        check.take(rest)
    check.finish()


def _take_all(check: LineCheck, lines: Sequence[bytes]) -> None:
    for line in lines:
        if check.hopeless:
            return
        check.take(line)
