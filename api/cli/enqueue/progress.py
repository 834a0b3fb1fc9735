"""How far a run is: a bar for people, JSON lines for schedulers."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from api.cli.enqueue.say import Say
from api.client import ClientError

_TELL_SECONDS = 1.0
_DRAW_SECONDS = 0.2
_RATE_SECONDS = 10.0


@dataclass(slots=True)
class Count:
    """What was counted so far."""

    total: int | None = None
    submitted: int = 0
    done: int = 0
    failed: int = 0
    before: int = 0
    """Done by earlier runs."""
    pause: tuple[str, float] = ("", 0.0)
    """Why the API takes no rows at the moment, and until when."""
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def per_second(self, now: float) -> float:
        """Items a second, over the last ten seconds and what was seen last before them."""
        self._seen.append((now, self.done))
        while len(self._seen) > 2 and now - self._seen[1][0] > _RATE_SECONDS:
            self._seen.popleft()
        began, first = self._seen[0]
        return (self.done - first) / (now - began) if now > began else 0.0

    def view(self, now: float) -> dict[str, Any]:
        """As JSON; times in seconds."""
        rate = self.per_second(now)
        why, until = self.pause
        left = None if self.total is None else self.total - self.before - self.done
        return {
            "total": self.total,
            "submitted": self.submitted,
            "done": self.done,
            "failed": self.failed,
            "done_before": self.before,
            "per_second": round(rate, 1),
            "eta_seconds": round(left / rate, 1) if left is not None and rate > 0 else None,
            "waits_for": why if now < until else None,
            "waits_seconds": round(until - now, 1) if now < until else None,
        }


class Reporter:
    """Shows a count while it moves, and while it does not, on a thread of its own."""

    def __init__(self, count: Count, title: str, say: Say) -> None:
        self._count = count
        self._say = say
        self._stopped = threading.Event()
        self._error: ClientError | None = None
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[says]}"),
        )
        self._bar = Progress(*columns, console=say.console, disable=say.as_json, auto_refresh=False)
        self._task = self._bar.add_task(title, total=count.total, says="")
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Reporter:
        self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._stopped.set()
        self._thread.join()
        try:
            if self._error is None:
                self._show()
        finally:
            self._bar.stop()

    def check(self) -> None:
        """Raise ClientError where nobody takes what is shown."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        seconds = _TELL_SECONDS if self._say.as_json else _DRAW_SECONDS
        while not self._stopped.wait(seconds):
            try:
                self._show()
            except ClientError as exc:
                self._error = exc
                return

    def _show(self) -> None:
        view = self._count.view(time.monotonic())
        if self._say.as_json:
            self._say.event("progress", **view)
            return
        done = self._count.before + self._count.done
        self._bar.update(self._task, completed=done, says=_words(view), refresh=True)


def _words(view: dict[str, Any]) -> str:
    total = "" if view["total"] is None else f"/{view['total']:,}"
    eta = view["eta_seconds"]
    left = "" if eta is None else f", {_clock(eta)} left"
    if view["waits_for"]:
        left = f", again in {_clock(view['waits_seconds'])}: {escape(view['waits_for'][:80])}"
    failed = f", [red]{view['failed']:,} failed[/]" if view["failed"] else ""
    return (
        f"{view['done'] + view['done_before']:,}{total} done{failed}, "
        f"{view['submitted']:,} submitted, {view['per_second']:,.0f}/s{left}"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
