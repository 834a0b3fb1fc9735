"""What the fault tests share: a recorded lane, a ledger of promises, a feeder over HTTP."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from redis.exceptions import RedisError

from common.redis.keys import LaneKeys, job_key, meta_key
from tests.support.stack import Stack, wait_until

LEASE = 5.0
"""Seconds; the L of the promises."""
LANE = "recorder"


@dataclass
class RecordedLane:
    """A lane whose handler writes down every execution."""

    stack: Stack
    ledger: Path
    environment: dict[str, str]

    @classmethod
    def on(cls, stack: Stack, max_batch: int = 32, **environment: str) -> RecordedLane:
        """Set the stack up to serve the lane."""
        ledger = stack.folder / "ledger"
        ledger.touch()
        catalog = stack.folder / "models.yaml"
        catalog.write_text(
            f"models:\n  {LANE}:\n    handler: tests.support.handlers:Recorder\n"
            f"    max_batch: {max_batch}\n    options: {{ledger: {ledger}}}\n"
        )
        stack.environment |= {
            "LANEFLEET_CATALOG": str(catalog),
            "LANEFLEET_LEASE_SECONDS": str(LEASE),
            **environment,
        }
        return cls(stack, ledger, stack.environment)

    def executions(self) -> Counter[str]:
        """How often each input was run."""
        return Counter(line.split(" ")[0] for line in self.ledger.read_text().splitlines())

    def executions_by(self, pids: set[int]) -> Counter[str]:
        """How often each input was begun by one of these processes."""
        lines = (line.split(" ") for line in self.ledger.read_text().splitlines())
        return Counter(value for value, pid, _ in lines if int(pid) in pids)

    def batch_sizes(self) -> list[int]:
        """The size of the batch of each execution."""
        return [int(line.split(" ")[2]) for line in self.ledger.read_text().splitlines()]


def settled(stack: Stack, ids: list[str]) -> bool:
    """Whether every job is in a terminal state."""
    counts = stack.states(ids)
    return not counts.keys() - {"succeeded", "failed", "canceled", "expired"}


def await_settled(stack: Stack, ids: list[str], seconds: float) -> float:
    """Wait until all are terminal; returns how long that took."""
    began = time.monotonic()
    wait_until(
        lambda: settled(stack, ids), seconds, f"all of {len(ids)} settled; {stack.states(ids)}"
    )
    return time.monotonic() - began


def assert_lane_is_empty(stack: Stack, lane: str = LANE) -> None:
    """Nothing waits, is leased or delayed."""
    keys = LaneKeys.of(lane)
    with stack.redis as client:
        assert [client.llen(band) for band in keys.bands] == [0, 0, 0, 0]
        assert client.hlen(keys.unacked) == 0
        assert client.zcard(keys.index) == 0
        assert client.zcard(keys.delayed) == 0


def assert_one_terminal_record_each(stack: Stack, ids: list[str]) -> None:
    """Each job has one result with a TTL, and its record is gone."""
    with stack.redis as client:
        pipe = client.pipeline(transaction=False)
        for job_id in ids:
            pipe.ttl(meta_key(job_id))
            pipe.exists(job_key(job_id))
        answers = pipe.execute()
    assert all(ttl > 0 for ttl in answers[::2])
    assert not any(answers[1::2])


def await_progress(stack: Stack, jobs: int, seconds: float = 60) -> None:
    """Wait until so many more jobs have succeeded than by now."""
    before = _succeeded(stack)
    wait_until(lambda: _succeeded(stack) >= before + jobs, seconds, f"{jobs} more results")


def _succeeded(stack: Stack) -> int:
    try:
        return stack.stats(LANE).get("succeeded", 0)
    except RedisError:
        return 0


@dataclass
class Feeder:
    """Submits numbered jobs over HTTP at a rate; `ledger` is every id that got a 202."""

    url: str
    per_second: float
    lane: str = LANE
    params: dict[str, object] = field(default_factory=dict)
    per_request: int = 1
    """More than one goes through the bulk route."""
    ledger: dict[str, str] = field(default_factory=dict)
    refused: Counter[int] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, threads: int = 4) -> Feeder:
        """Begin to submit from this many connections."""
        for index in range(threads):
            thread = threading.Thread(target=self._feed, args=(index, threads), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def stop(self) -> dict[str, str]:
        """Stop submitting; returns id -> input of every job that was accepted."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        return self.ledger

    def _feed(self, index: int, threads: int) -> None:
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        interval = threads * self.per_request / self.per_second
        number, due = index, time.monotonic()
        while not self._stop.is_set():
            values = [f"n{number + n * threads}" for n in range(self.per_request)]
            number += threads * self.per_request
            try:
                self._submit(connection, values)
            except (OSError, http.client.HTTPException):
                connection.close()
                self.refused[0] += 1
                time.sleep(0.05)
                continue
            due += interval
            self._stop.wait(max(0.0, due - time.monotonic()))
        connection.close()

    def _submit(self, connection: http.client.HTTPConnection, values: list[str]) -> None:
        bodies = [
            json.dumps({"model": self.lane, "input": value, "params": self.params})
            for value in values
        ]
        bulk = self.per_request > 1
        path = "/v1/jobs/bulk" if bulk else "/v1/jobs"
        body = "\n".join(bodies)
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        documents = [json.loads(line) for line in answer.read().splitlines()]
        for value, document in zip(values, documents, strict=False):
            if answer.status == (200 if bulk else 202) and "id" in document:
                self.ledger[document["id"]] = value
            else:
                self.refused[document.get("error", document).get("status", 0)] += 1
