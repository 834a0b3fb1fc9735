"""How far a run is: a bar for people, JSON lines for schedulers."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

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
        left = None if self.total is None else self.total - self.before - self.done
        return {
            "total": self.total,
            "submitted": self.submitted,
            "done": self.done,
            "failed": self.failed,
            "done_before": self.before,
            "per_second": round(rate, 1),
            "eta_seconds": round(left / rate, 1) if left is not None and rate > 0 else None,
        }


class Reporter:
    """Shows a count while it moves."""

    def __init__(self, count: Count, title: str, console: Console, *, as_json: bool) -> None:
        self._count = count
        self._as_json = as_json
        self._next = 0.0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[says]}"),
        )
        self._bar = Progress(*columns, console=console, disable=as_json, auto_refresh=False)
        self._task = self._bar.add_task(title, total=count.total, says="")

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self.show(last=True)
        self._bar.stop()

    def show(self, *, last: bool = False) -> None:
        """Show it, unless it was shown just now."""
        now = time.monotonic()
        if not last and now < self._next:
            return
        self._next = now + (_TELL_SECONDS if self._as_json else _DRAW_SECONDS)
        view = self._count.view(now)
        if self._as_json:
            sys.stdout.write(json.dumps({"event": "progress", **view}) + "\n")
            sys.stdout.flush()
            return
        done = self._count.before + self._count.done
        self._bar.update(self._task, completed=done, says=_words(view), refresh=True)


def _words(view: dict[str, Any]) -> str:
    total = "" if view["total"] is None else f"/{view['total']:,}"
    eta = view["eta_seconds"]
    left = "" if eta is None else f", {_clock(eta)} left"
    failed = f", [red]{view['failed']:,} failed[/]" if view["failed"] else ""
    return (
        f"{view['done'] + view['done_before']:,}{total} done{failed}, "
        f"{view['submitted']:,} submitted, {view['per_second']:,.0f}/s{left}"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
