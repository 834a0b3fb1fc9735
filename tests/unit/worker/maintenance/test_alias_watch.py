"""What the worker makes of what stands in Redis about aliases."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from common.catalog import Target
from worker.maintenance.alias_watch import AliasWatch


def test_an_alias_that_is_no_text_keeps_no_worker_from_starting() -> None:
    """It is looked at once before the threads start; the others are still followed."""
    moved: list[Mapping[str, Target]] = []
    models: Any = SimpleNamespace(aliases_stale=threading.Event(), move_aliases=moved.append)
    client: Any = SimpleNamespace(hgetall=lambda _key: {b"\xff": b"\xff", b"best": b"new"})
    AliasWatch(client, models, {"best": Target.whole("old")}).run_once()
    whole = Target.whole
    assert moved == [{"best": whole("new"), "\ufffd": whole("\ufffd")}]


def test_shares_that_cannot_be_read_leave_the_alias_as_the_catalog_has_it() -> None:
    moved: list[Mapping[str, Target]] = []
    models: Any = SimpleNamespace(aliases_stale=threading.Event(), move_aliases=moved.append)
    said = b'{"shares": {"a": 0.5, "b": 0.5}, "sticky": true}'
    client: Any = SimpleNamespace(hgetall=lambda _key: {b"one": b"{", b"two": said})
    old = Target.whole("old")
    AliasWatch(client, models, {"one": old, "two": old}).run_once()
    assert moved == [{"one": old, "two": Target({"a": 0.5, "b": 0.5}, sticky=True)}]
