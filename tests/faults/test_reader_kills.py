"""API processes are killed while they hold streams: who reads on elsewhere has each text once.

One such kill is in tests/integration/test_generation_streams.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.client import Token
from api.client.sse import EventReader
from common.redis.embedded_server import RedisServer
from tests.support.generation import catalog
from tests.support.null_generator import text_of
from tests.support.stack import ApiProcess, Stack

LANE = "slow"
TOKENS = 60
STEP_MS = 15
ROUNDS = 20


@pytest.fixture
def stack(embedded_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    path = catalog(tmp_path, **{LANE: {"step_ms": STEP_MS}})
    made = Stack(embedded_redis.url, tmp_path, {"LANEFLEET_CATALOG": str(path)})
    made.redis.flushall()
    made.worker(LANE)
    yield made
    made.close()
    made.redis.flushall()


def read_and_kill(api: ApiProcess, text: str, seed: int, after: int) -> tuple[str, list[Any]]:
    """Read a stream, and kill the process that holds it after so many tokens; the job's id too."""
    body = {"text": text, "model": LANE, "seed": seed, "max_length": TOKENS, "stream": True}
    reader, found = EventReader(), []
    with httpx.stream("POST", f"{api.url}/v1/generate", json=body, timeout=60) as response:
        job_id = response.headers["location"].rpartition("/")[2]
        try:
            for part in response.iter_bytes():
                found += reader.feed(part)
                if sum(isinstance(one, Token) for one in found) >= after:
                    api.process.kill()
        except httpx.TransportError:
            pass
    return job_id, found


def rest(api: ApiProcess, job_id: str, last_id: str) -> list[Any]:
    reader, found = EventReader(), []
    url, headers = f"{api.url}/v1/jobs/{job_id}/events", {"Last-Event-ID": last_id}
    with httpx.stream("GET", url, headers=headers, timeout=60) as response:
        for part in response.iter_bytes():
            found += reader.feed(part)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_text_is_read_once_whichever_process_is_killed(stack: Stack) -> None:
    chance = random.Random(17)
    apis = [stack.api(LANE), stack.api(LANE)]
    for number in range(ROUNDS):
        doomed, other = apis
        after = chance.randrange(1, TOKENS)
        job_id, found = read_and_kill(doomed, f"round {number}", number, after)
        found += rest(other, job_id, found[-1].id)
        said = "".join(one.text for one in found if isinstance(one, Token))
        assert said == text_of(f"round {number}", TOKENS, seed=number)
        ids = [one.id for one in found]
        assert len(set(ids)) == len(ids)
        apis = [other, stack.api(LANE)] if number + 1 < ROUNDS else apis
