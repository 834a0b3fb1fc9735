"""What each error of Redis is called, and how often it is said."""

from __future__ import annotations

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from structlog.testing import capture_logs

from api.http.problems import problem_for
from common.redis.trouble import TroubleLog, cause_of

CAUSES = [
    (AuthenticationError("invalid username-password pair"), "authentication", 503),
    (NoPermissionError("User u has no permissions"), "permission", 503),
    (OutOfMemoryError("command not allowed"), "out_of_memory", 429),
    (ReadOnlyError("You can't write against a read only replica."), "read_only", 503),
    (ResponseError("MISCONF Redis is configured to save"), "no_writes", 503),
    (ResponseError("NOREPLICAS Not enough good replicas"), "no_writes", 503),
    (BusyLoadingError("Redis is loading the dataset"), "loading", 503),
    (RedisConnectionError("Error 111 connecting to h:1"), "unreachable", 503),
    (RedisTimeoutError("Timeout reading from socket"), "unreachable", 503),
    (ResponseError("ERR something else"), "other", 503),
]


@pytest.mark.parametrize(("error", "cause", "status"), CAUSES)
def test_a_problem_names_its_cause(error: Exception, cause: str, status: int) -> None:
    assert cause_of(error) == cause
    problem = problem_for(error)
    document = problem.document()
    assert (problem.status, document["cause"]) == (status, cause)
    assert str(error) not in document["detail"], "what Redis says is not for clients"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_trouble_is_said_once_and_then_ever_more_rarely() -> None:
    clock = Clock()
    trouble = TroubleLog(clock)
    with capture_logs() as logs:
        for tick in range(4 * 120):
            clock.now = 100 + tick / 4
            trouble.note("reserving" if tick % 2 else "renewing", RedisConnectionError("gone"))
    assert [one.get("unsaid", 0) for one in logs] == [0, 39, 79, 159]
    assert {one["cause"] for one in logs} == {"unreachable"}


def test_another_cause_is_said_at_once_and_the_end_once() -> None:
    clock = Clock()
    trouble = TroubleLog(clock)
    with capture_logs() as logs:
        trouble.note("reserving", RedisConnectionError("gone"))
        trouble.note("reserving", AuthenticationError("no"))
        assert not trouble.over(), "it answers, but did not a moment ago"
        clock.now += 5
        assert trouble.over()
        assert trouble.over()
        trouble.note("reserving", RedisConnectionError("gone"))
    said = [(one["event"], one.get("cause")) for one in logs]
    assert said == [
        ("redis_in_trouble", "unreachable"),
        ("redis_in_trouble", "authentication"),
        ("redis_answers_again", None),
        ("redis_in_trouble", "unreachable"),
    ]


def test_a_forbidden_command_is_not_over_because_others_are_answered() -> None:
    clock = Clock()
    trouble = TroubleLog(clock)
    with capture_logs() as logs:
        for _ in range(10):
            trouble.note("reserving", NoPermissionError("evalsha"))
            clock.now += 4
            assert trouble.over()
    assert [one["event"] for one in logs] == ["redis_in_trouble"] * 3
