"""`python -m tests.support.watched_api FILE`: the API, with a watch on its event loop.

FILE gets, as JSON, the longest that one callback held the loop, in seconds of the thread's own CPU
time, so that a busy machine does not count, and which callback that was. The loop is asyncio's own:
uvloop's handles cannot be watched.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn

from api.__main__ import main

_REPORTED = Path(sys.argv[1])
_LEAST_SECONDS = 0.01


def _name_of(handle: Any) -> str:
    """What ran: a task's coroutine with where it stands now, or the callback."""
    task = getattr(handle._callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        return repr(handle._callback)[:200]
    names: list[str] = []
    coroutine: Any = task.get_coro()
    while coroutine is not None and len(names) < 12:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        names.append(
            f"{getattr(coroutine, '__qualname__', '?')}:{frame.f_lineno if frame else '-'}"
        )
        coroutine = getattr(coroutine, "cr_await", None)
    return " > ".join(names)


def watch() -> None:
    """Measure every callback of every loop of this process."""
    run, longest = asyncio.Handle._run, _LEAST_SECONDS

    def forget(*_: object) -> None:
        nonlocal longest
        longest = _LEAST_SECONDS

    signal.signal(signal.SIGUSR1, forget)

    def measured(self: asyncio.Handle) -> None:
        nonlocal longest
        began = time.thread_time()
        run(self)
        spent = time.thread_time() - began
        if spent > longest:
            longest = spent
            _REPORTED.write_text(json.dumps({"seconds": spent, "callback": _name_of(self)}))

    asyncio.Handle._run = measured  # type: ignore[method-assign]
    made = uvicorn.Config.__init__

    def with_asyncio(self: uvicorn.Config, *args: Any, **options: Any) -> None:
        made(self, *args, **{**options, "loop": "asyncio"})

    uvicorn.Config.__init__ = with_asyncio  # type: ignore[method-assign]


if __name__ == "__main__":
    watch()
    sys.exit(main())
