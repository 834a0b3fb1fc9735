"""Which states jobs move between: as scripts' headers say, as the diagram draws, as seen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from redis import Redis

from common.redis.script_text import source_of
from common.redis.scripts import Scripts
from tests.support.stack import ROOT

DIAGRAM = ROOT / "docs" / "state-machine.md"
_ARROW = re.compile(r"^ +(\S+) --> (\S+): (.+)$", re.MULTILINE)

Move = tuple[str, str, str]
"""A script, and the states before and after."""
States = Mapping[str, tuple[str, str]]
"""Per job its state and its record."""

_SNAPSHOT = """
local out = {}
for _, key in ipairs(redis.call('KEYS', 'lf:job:*')) do
  local text = redis.call('GET', key)
  local state = redis.call('PTTL', key) >= 0 and 'settled' or string.sub(text, 1, 1)
  for _, word in ipairs({ string.sub(key, 8), state, text }) do out[#out + 1] = word end
end
for _, key in ipairs(redis.call('KEYS', 'celery-task-meta-*')) do
  local id = string.sub(key, 18)
  if redis.call('EXISTS', 'lf:job:' .. id) == 0 then
    for _, word in ipairs({ id, 'settled', '' }) do out[#out + 1] = word end
  end
end
return out
"""


def states_of(client: Redis) -> States:
    """Where every job stands that the server knows."""
    words = iter([word.decode("latin-1") for word in client.eval(_SNAPSHOT, 0)])  # type: ignore[union-attr]
    return {job_id: (state, text) for job_id, state, text in zip(words, words, words, strict=True)}


def moves_between(script: str, before: States, after: States) -> set[Move]:
    """What the script did; a job whose record alone changed moves to where it is.

    What is left of a settled job's record for a while goes without a move.
    """
    nothing = ("none", "")
    moves = {
        (script, before.get(job_id, nothing)[0], after.get(job_id, nothing)[0])
        for job_id in before.keys() | after.keys()
        if before.get(job_id, nothing) != after.get(job_id, nothing)
    }
    return moves - {(script, "settled", "settled")}


@contextmanager
def recorded_moves(client: Redis, seen: set[Move]) -> Iterator[None]:
    """Add to `seen` what every script does that runs meanwhile, in this process."""
    send = Scripts.send

    def watched(self: Scripts, name: str, *arguments: Any) -> Any:
        before = states_of(client)
        reply = send(self, name, *arguments).result()
        seen.update(moves_between(name, before, states_of(client)))
        return mock.Mock(result=lambda: reply)

    with mock.patch.object(Scripts, "send", watched):
        yield


def moves_in_header(script: str) -> set[Move]:
    """What the script's header says it does."""
    found = re.search(r"^-- Moves: (.+)$", source_of(script), re.MULTILINE)
    assert found, script
    pairs = [] if found[1] == "none" else found[1].split(", ")
    return {(script, *pair.split("->")) for pair in pairs}  # type: ignore[misc]


def moves_in_diagram() -> set[Move]:
    """What the arrows of docs/state-machine.md say."""
    name = {"[*]": "none"}
    return {
        (script, name.get(before, before), name.get(after, after))
        for before, after, scripts in _ARROW.findall(DIAGRAM.read_text())
        for script in scripts.split(", ")
    }


IN_CASES_ONLY = {
    ("reserve", "r", "r"): "somebody else put a leased message back",
    ("reserve", "w", "r"): "a leader was lost with its followers' entries",
    ("reserve", "w", "q"): "a leader's deadline passed in the lane, or it was delivered too often",
    ("reserve", "w", "w"): "the same, where it had several",
    ("reserve", "none", "settled"): "a message that is no job names who waits for it",
    ("reserve", "settled", "r"): "another Celery client used an id again for another call",
    ("expire", "q", "x"): "the message is deep in its list",
    ("expire", "w", "q"): "a leader's deadline passed and no worker was there",
    ("expire", "w", "w"): "the same, where it had several",
    ("dead_retry", "none", "q"): "a dead job's result went before its letter",
}
"""Moves that only the cases of tests/lua show: the models do not play what leads to them."""


def is_of_a_flight(move: Move) -> bool:
    """Whether followers have part in it, or a result that came a moment ago."""
    shared = "w" in move or move == ("enqueue", "none", "settled")
    return shared and move not in IN_CASES_ONLY


def is_of_one_job(move: Move) -> bool:
    """Whether it happens without followers too."""
    return not is_of_a_flight(move) and move not in IN_CASES_ONLY
