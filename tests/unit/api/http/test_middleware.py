"""What holds for every request: Host, ids, trace; judged without a server."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from api.http.allowed_hosts import AllowedHosts
from api.http.request_context import request_id_of
from api.openapi.docs_page import policy_for
from common.jobs.job import Job
from common.jobs.message import build_message
from common.trace import read_traceparent, trace_id
from worker.celery_integration.task_events import TaskEvents
from worker.jobs.execution import Execution
from worker.observability.view import EventCounts

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("names", "listening_on", "good", "bad"),
    [
        (
            (),
            "127.0.0.1",
            ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "app.localhost", "LOCALHOST"],
            ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "a b", "a/b"],
        ),
        ((), "0.0.0.0", ["anything.example:80", "10.0.0.1"], ["", "a,b", "a:b", "a@b", "é"]),
        (
            ("api.example.com", "*.internal"),
            "127.0.0.1",
            ["api.example.com", "API.example.com:443", "a.b.internal"],
            ["localhost", "127.0.0.1", "internal", "evil.api.example.com", "api.example.com.evil"],
        ),
        (("*",), "127.0.0.1", ["whatever.example"], ["what ever"]),
    ],
)
def test_a_host_is_answered_to_or_not(
    names: tuple[str, ...], listening_on: str, good: list[str], bad: list[str]
) -> None:
    hosts = AllowedHosts(names, listening_on)
    for _ in range(2):  # the second time from memory
        assert [one for one in good if one.encode() not in hosts] == []
        assert [one for one in bad if one.encode("latin-1") in hosts] == []


def test_the_memory_of_good_hosts_is_bounded() -> None:
    hosts = AllowedHosts(("*.example",), "127.0.0.1")
    for number in range(1_000):
        assert f"a{number}.example".encode() in hosts
    assert len(hosts.good) <= 64


@pytest.mark.parametrize("given", [b"abc-1", b"0af7651916cd43dd", b"a" * 128, b"x/y:z=="])
def test_a_sane_request_id_is_kept(given: bytes) -> None:
    assert request_id_of(given) == given


@pytest.mark.parametrize("given", [None, b"", b"a" * 129, b"a b", b"a\r\nb", b'"', b"\xff", b"{}"])
def test_any_other_is_replaced_by_a_new_one(given: bytes | None) -> None:
    first, second = request_id_of(given), request_id_of(given)
    assert re.fullmatch(rb"[0-9a-f]{16}-\d+", first)
    assert first != second


@pytest.mark.parametrize(
    ("value", "good"),
    [
        (TRACE, True),
        (TRACE.encode(), True),
        ("01" + TRACE[2:] + "-more", True),
        (TRACE + "-more", False),
        ("ff" + TRACE[2:], False),
        (TRACE.upper(), False),
        (TRACE.replace("b7ad6b7169203331", "0" * 16), False),
        (TRACE.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), False),
        (TRACE + '","id":"x', False),
        ("01" + TRACE[2:] + "-a.b_c~d-e", True),
        ("01" + TRACE[2:] + '-x","id":"y', False),
        ("01" + TRACE[2:] + "-x\\", False),
        ("01" + TRACE[2:] + "-", False),
        ("", False),
        (None, False),
        (7, False),
    ],
)
def test_only_a_valid_traceparent_is_believed(value: Any, good: bool) -> None:
    assert bool(read_traceparent(value)) is good


def test_a_traceparent_travels_in_the_messages_headers() -> None:
    traced = json.loads(build_message(Job("echo", 1, traceparent=TRACE)))
    assert traced["headers"]["traceparent"] == TRACE
    late = json.loads(build_message(Job("echo", 1, traceparent=TRACE, deadline_ms=1_000)))
    assert late["headers"]["traceparent"] == TRACE
    assert late["headers"]["deadline_ms"] == 1_000
    assert "traceparent" not in json.loads(build_message(Job("echo", 1)))["headers"]
    assert trace_id(TRACE) == "0af7651916cd43dd8448eb211c80319c"


def test_no_traceparent_can_add_headers_to_a_message_or_fields_to_an_event() -> None:
    forged = "01" + TRACE[2:] + '-x","id":"y'
    job = Job("echo", 1, traceparent=forged)
    headers = json.loads(build_message(job))["headers"]
    assert headers["id"] == job.id
    assert headers["traceparent"] == forged

    execution = Execution(b"1", 1, 0, job.id, 1.0)
    execution.disposition, execution.traceparent = "succeeded", forged
    sender = TaskEvents("w", EventCounts(), 1000, enabled=True)
    events = json.loads(f"[{sender._events_of('echo', [execution], 1)}]")
    assert {event["uuid"] for event in events} == {job.id}


def test_the_policy_of_the_docs_names_its_script_by_hash() -> None:
    policy = policy_for("<script>let a = 1</script><script src='x'></script>")
    script = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "unsafe-inline" not in script
    assert script.count("sha256-") == 1
