"""What tests of generation share: a catalog of null generators, and who reads what they say."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from redis import Redis
from redis.exceptions import RedisError

from common.generation.said import Delta, read_entry
from common.jobs.job import Job
from common.redis.keys import said_key
from tests.support.stack import Stack

GREEDY = {"temperature": 0}


def catalog(folder: Path, aliases: dict[str, str] | None = None, **models: dict[str, Any]) -> Path:
    """A catalog of null generators with these options, under their names, and `echo`."""
    entries: dict[str, Any] = {"echo": {"handler": "echo", "max_wait_ms": 0}}
    for name, options in models.items():
        own = options.pop("spec", {})
        entries[name] = {
            "handler": "tests.support.null_generator:NullGenerator",
            "task": "generate",
            "input": "json",
            "options": options,
            **own,
        }
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": entries, "aliases": aliases or {}}))
    return path


def generate(stack: Stack, lane: str, *prompts: str, **params: Any) -> list[str]:
    """Publish a job for each prompt; returns their ids."""
    return stack.publish([Job(lane, one, {**GREEDY, **params}) for one in prompts])


def text_of_job(stack: Stack, job_id: str) -> str | None:
    """The text of its result; None while there is none."""
    record = stack.record(job_id)
    if record is None or record.value is None:
        return None
    value: Any = record.value
    return str(value["text"])


@dataclass
class Reader:
    """Follows one job's stream as the front does: the channel, and the stream where it misses one.

    Every entry is taken once, in order; an entry met twice with other words is a fault.
    """

    redis: Redis
    job_id: str
    entries: list[bytes] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> Reader:
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> Reader:
        """Read what is left, and end; also of one that was never started."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(30)
        self._catch_up()
        return self

    def deltas(self) -> list[Delta]:
        """All that was said."""
        return [delta for entry in self.entries for delta in read_entry(entry)]

    def text(self, choice: int = 0) -> str:
        """The text of a choice, as it was read."""
        return "".join(one.text for one in self.deltas() if one.choice == choice)

    def finish(self, choice: int = 0) -> str:
        """Why it ended, once it was said."""
        return "".join(one.finish for one in self.deltas() if one.choice == choice)

    def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                with self.redis.pubsub() as listener:
                    listener.subscribe(said_key(self.job_id))
                    self._catch_up()
                    while not self._stopping.is_set():
                        told = listener.get_message(timeout=0.1)
                        if told and told["type"] == "message":
                            self._take(told["data"])
            except RedisError:
                time.sleep(0.1)

    def _take(self, told: bytes) -> None:
        number, _, entry = told.partition(b" ")
        at = int(number)
        if at <= len(self.entries):
            assert self.entries[at - 1] == entry, "one entry was said in two ways"
        elif at == len(self.entries) + 1:
            self.entries.append(entry)
        else:
            self._catch_up()

    def _catch_up(self) -> None:
        after = f"({len(self.entries)}-0" if self.entries else "-"
        found: Any = self.redis.xrange(said_key(self.job_id), after, "+")
        for number, fields in found:
            assert int(number.partition(b"-")[0]) == len(self.entries) + 1, "an entry is missing"
            self.entries.append(fields[b"d"])
