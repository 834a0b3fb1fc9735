"""What two models make of the same input is made once, within a bound."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from worker.models.prepared import Prepared, PreparedCounts


class Handler:
    """Stands for a loaded model."""


def prepared(makers: int = 2, max_bytes: int = 10_000) -> tuple[Prepared, list[Handler]]:
    made = Prepared(max_bytes)
    handlers = [Handler() for _ in range(makers)]
    for handler in handlers:
        made.join(handler, "rgb")
    return made, handlers


def test_the_second_model_gets_what_the_first_made() -> None:
    kept, _handlers = prepared()
    first = kept.get("rgb", b"picture", lambda: [1], lambda _: 100)
    assert kept.get("rgb", b"picture", lambda: [2], lambda _: 100) is first
    assert kept.get("rgb", b"picture", lambda: [3], lambda _: 100, "small") == [3]
    assert kept.get("rgb", b"other", lambda: [4], lambda _: 100) == [4]
    assert kept.counts() == PreparedCounts(1, 3, 3 * 700)


@pytest.mark.parametrize(("makers", "max_bytes"), [(1, 10_000), (2, 0)])
def test_nothing_is_kept_for_one_model_or_without_room(makers: int, max_bytes: int) -> None:
    kept, _handlers = prepared(makers, max_bytes)
    for number in range(2):
        assert kept.get("rgb", b"picture", lambda number=number: number, lambda _: 1) == number
    assert kept.counts() == PreparedCounts()


def test_the_least_recently_used_leaves_and_the_huge_is_not_kept() -> None:
    kept, _handlers = prepared(max_bytes=5_600)
    for name in (b"a", b"b", b"c"):
        kept.get("rgb", name, lambda: name, lambda _: 800)  # noqa: B023 - called at once
    kept.get("rgb", b"a", lambda: b"not made", lambda _: 800)
    kept.get("rgb", b"d", lambda: b"d", lambda _: 800)
    kept.get("rgb", b"e", lambda: b"e", lambda _: 800)
    assert kept.counts().bytes == 5_600
    assert kept.get("rgb", b"a", lambda: b"again", lambda _: 800) == b"a"
    assert kept.get("rgb", b"b", lambda: b"again", lambda _: 800) == b"again"
    kept.get("rgb", b"huge", lambda: b"huge", lambda _: 3_000)
    assert kept.counts().bytes == 5_600


def test_it_is_emptied_when_a_model_leaves() -> None:
    kept, handlers = prepared()
    kept.get("rgb", b"picture", lambda: 1, lambda _: 100)
    handlers.pop()
    gc.collect()
    assert kept.counts().bytes == 0
    assert kept.get("rgb", b"picture", lambda: 2, lambda _: 100) == 2


def test_what_is_refused_is_refused_again() -> None:
    kept, _handlers = prepared()
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            kept.get("rgb", b"picture", lambda: int("broken"), lambda _: 1)
    assert kept.counts() == PreparedCounts()


def test_many_threads_keep_the_count_of_bytes_right() -> None:
    kept, _handlers = prepared(max_bytes=9_000)

    def ask(number: int) -> int:
        return kept.get("rgb", bytes([number % 40]), lambda: number % 40, lambda _: 300)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(4_000))) == [number % 40 for number in range(4_000)]
    assert 0 < kept.counts().bytes <= 9_000
    assert kept.counts().bytes % 900 == 0


def test_a_handler_that_is_collected_within_the_lock_hangs_nobody() -> None:
    kept, handlers = prepared()
    kept.get("rgb", b"picture", lambda: 1, lambda _: 100)

    def collect_within() -> None:
        with kept._lock:  # as where an allocation within it starts the collector
            handlers.clear()
            gc.collect()

    thread = threading.Thread(target=collect_within, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    late = Handler()
    kept.join(late, "other")
    assert kept.counts().bytes == 0, "and what it left is forgotten"


def test_what_is_made_while_the_other_handler_leaves_is_not_kept() -> None:
    kept, handlers = prepared()

    def make() -> int:
        handlers.pop()
        gc.collect()
        return 1

    assert kept.get("rgb", b"picture", make, lambda _: 100) == 1
    assert kept.counts().bytes == 0


def test_a_text_counts_with_the_bytes_that_it_takes() -> None:
    kept, _handlers = prepared(max_bytes=10**6)
    text = "\N{GRINNING FACE}" * 10_000
    kept.get("rgb", text, lambda: 1, lambda _: 0)
    assert kept.counts().bytes >= 40_000
