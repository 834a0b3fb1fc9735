"""What the worker makes of what stands in Redis about aliases."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from worker.maintenance.alias_watch import AliasWatch


def test_an_alias_that_is_no_text_keeps_no_worker_from_starting() -> None:
    """It is looked at once before the threads start; the others are still followed."""
    moved: list[Mapping[str, str]] = []
    models: Any = SimpleNamespace(aliases_stale=threading.Event(), move_aliases=moved.append)
    client: Any = SimpleNamespace(hgetall=lambda _key: {b"\xff": b"\xff", b"best": b"new"})
    AliasWatch(client, models, {"best": "old"}).run_once()
    assert moved == [{"best": "new", "\ufffd": "\ufffd"}]
