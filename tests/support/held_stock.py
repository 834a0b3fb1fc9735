"""A stock Celery application whose worker stands still at a step, so that a test can kill it there.

HOLD names the step: `ran` holds when a task has run, `sent` when the tasks after it are sent,
`stored` when its result is stored, which is before its chord counts it. Celery goes through them
in this order. Without HOLD the worker stands still nowhere. ACKS is `early` or `late`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from celery.backends.redis import RedisBackend

from tests.support.stock_celery import app

HELD = "stock:held"
"""How many tasks stand still."""
VISIBILITY_SECONDS = 10
"""So long that a slow machine does not pass it."""


def _hold(*_arguments: Any, **_named: Any) -> None:
    app.backend.client.incr(HELD)
    threading.Event().wait()


def _held_after(call: Callable[..., Any]) -> Callable[..., Any]:
    def held(*arguments: Any, **named: Any) -> None:
        call(*arguments, **named)
        _hold()

    return held


def _stand_still(step: str) -> None:
    if step == "ran":
        note = app.tasks["stock.note"]
        note.run = _held_after(note.run)
    elif step == "sent":
        RedisBackend.mark_as_done = _hold
    elif step == "stored":
        RedisBackend.store_result = _held_after(RedisBackend.store_result)


app.conf.update(
    task_acks_late=os.environ.get("ACKS") == "late",
    broker_transport_options={
        "visibility_timeout": VISIBILITY_SECONDS,
        # Kombu looks for lapsed messages each ten times this: every 100 s unless it is set.
        "unacked_restore_interval": 1,
    },
)
_stand_still(os.environ.get("HOLD", ""))
