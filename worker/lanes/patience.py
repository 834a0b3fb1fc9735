"""Repeats a transition until Redis accepts it: results have nowhere else to go."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import RedisError

from common.redis.trouble import TROUBLE

T = TypeVar("T")

PAUSE_SECONDS = 0.2


def until_accepted(
    transition: Callable[[], T],
    doing: str,
    lane: str,
    give_up_at: Callable[[], float | None],
    answered: Callable[[float], None] = lambda _now: None,
) -> T | None:
    """What the transition returns; fencing makes repeating it safe.

    give_up_at, a steady time or None, is asked after each failure, as a worker may be told to stop
    meanwhile: from then on the answer is None. answered is told when Redis answered.
    """
    while True:
        try:
            answer = transition()
        except RedisError as exc:
            TROUBLE.note(doing, exc, lane=lane)
            until = give_up_at()
            if until is not None and time.monotonic() > until:
                return None
            time.sleep(PAUSE_SECONDS)
        else:
            answered(time.monotonic())
            return answer
