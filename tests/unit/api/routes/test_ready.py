"""What `/ready` says of workers that a model holds."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace as Made

from api.routes.health import ready
from common.worker_report import WorkerReport


def test_it_names_workers_that_a_model_holds() -> None:
    slow = WorkerReport("cpu-1@here", warnings=["infer of m has run for 61 s; its limit is 120 s"])
    services = Made(
        sampler=Made(
            readable=True, trouble=None, reports=[slow, WorkerReport("cpu-2@here")], lanes={}
        ),
        guard=Made(refusal=None),
        breakers=Made(records={}),
        abandoned=Made(lanes=[]),
        server_watch=Made(warnings=["evicts"]),
    )
    answer = asyncio.run(ready(services))  # type: ignore[arg-type]
    assert answer.status == "ready"
    assert answer.warnings == ["evicts", f"cpu-1@here: {slow.warnings[0]}"]
    assert WorkerReport.load(slow.dump()) == slow
