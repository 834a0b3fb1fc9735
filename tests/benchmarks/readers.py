"""How late tokens reach their readers, and what they cost the API: many streams, one process.

The worker is played by this process: it writes entries as `say` does, each with the time in it, for
16 jobs at a time, spread evenly. The readers are bare sockets. The first token is that of a whole
fleet, asked for over HTTP one at a time; the generator itself takes one step for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import redis.asyncio

from common.jobs.job import new_job_id
from common.redis.connect import database_of
from common.redis.keys import job_key, said_key, scoped_channel
from tests.benchmarks.arena import Arena, Sample
from tests.benchmarks.measure import cpu_seconds, medians, percentile
from tests.benchmarks.report import Table, Target
from tests.support.generation import catalog
from tests.support.stack import ApiProcess

_LANE = "told"
_PER_SECOND = 5
_TOGETHER = 16
_P99_MS = 250.0
_MARK = b'"text":"'
_TTL_SECONDS = 120
_FIRST, _STEPS = "first token, over HTTP", "step"
_STEP_MS = 8
_MOST_FIRST_MS = 6.0


def run(arena: Arena) -> Table:
    """Few readers and many, in turns."""
    most, entries = arena.size(1_000, 20), arena.size(50, 5)
    stack = arena.stack()
    path: Path = catalog(stack.folder, **{_LANE: {}, _STEPS: {"step_ms": _STEP_MS}})
    stack.environment |= {"LANEFLEET_CATALOG": str(path)}
    api = stack.api(f"echo,{_LANE},{_STEPS}")
    counts = (max(1, most // 10), most)
    samples = arena.interleave(
        {
            f"{count:,} readers": lambda count=count: asyncio.run(  # type: ignore[misc]
                _read(api, stack.redis_url, count, entries)
            )
            for count in counts
        }
    )
    stack.worker(f"echo,{_STEPS}")
    calls = arena.size(200, 10)
    samples |= arena.interleave({_FIRST: lambda: _firsts(api, calls)})
    found = {name: medians(taken) for name, taken in samples.items()}
    table = Table(
        "readers",
        f"streams of {_PER_SECOND} tokens a second at one API process",
        ["", "tokens/s", "API us/token", "p50 ms", "p99 ms"],
    )
    table.samples = samples
    names = ("per_second", "api_us", "p50_ms", "p99_ms")
    table.rows = [[name, *(one.get(column) for column in names)] for name, one in found.items()]
    last = found[f"{most:,} readers"]
    first = found[_FIRST]["p50_ms"] - _STEP_MS
    table.targets = [
        Target(4, "p99 of a token, ms", last["p99_ms"], _P99_MS, at_most=True),
        Target(4, "first token, ms more than its step", first, _MOST_FIRST_MS, at_most=True),
    ]
    return table


def _firsts(api: ApiProcess, calls: int) -> Sample:
    """From the request to the first token, on a connection that is open."""
    taken = []
    with httpx.Client(base_url=api.url, timeout=60) as client:
        for number in range(calls):
            text = f"first {number} {new_job_id()}"
            body = {"text": text, "model": _STEPS, "max_length": 2, "stream": True}
            began = time.perf_counter()
            with client.stream("POST", "/v1/generate", json=body) as response:
                told = b""
                parts = response.iter_raw()
                while _MARK not in told:
                    told += next(parts)
                taken.append(time.perf_counter() - began)
                for _ in parts:
                    pass
    return {f"p{share}_ms": percentile(taken, share / 100) * 1000 for share in (50, 99)}


async def _read(api: ApiProcess, redis_url: str, count: int, entries: int) -> Sample:
    client = redis.asyncio.Redis.from_url(redis_url)
    ids = [new_job_id() for _ in range(count)]
    now_ms = int(time.time() * 1000)
    pipe = client.pipeline(transaction=False)
    for one in ids:
        record = f"r {_LANE} {now_ms} 0 1 1 tag {now_ms} by-hand"
        pipe.set(job_key(one), record, ex=_TTL_SECONDS)
    await pipe.execute()
    late: list[float] = []
    begun: asyncio.Queue[None] = asyncio.Queue()
    readers = [asyncio.create_task(_follow(api.url, one, entries, late, begun)) for one in ids]
    for _ in ids:
        await begun.get()
    cpu, began = cpu_seconds(api.process.pid), time.perf_counter()
    await _say(client, ids, entries)
    await asyncio.wait(readers, timeout=60)
    seconds = time.perf_counter() - began
    cpu = cpu_seconds(api.process.pid) - cpu
    for one in readers:
        one.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    await client.aclose()
    assert len(late) == count * entries, f"{len(late)} of {count * entries} tokens arrived"
    return {
        "per_second": len(late) / seconds,
        "api_us": cpu / len(late) * 1e6,
        "p50_ms": percentile(late, 0.5) * 1000,
        "p99_ms": percentile(late, 0.99) * 1000,
    }


async def _say(client: redis.asyncio.Redis, ids: Sequence[str], entries: int) -> None:
    """An entry for every job in each fifth of a second."""
    database = database_of(client)
    groups = [ids[first : first + _TOGETHER] for first in range(0, len(ids), _TOGETHER)]
    began = time.perf_counter()
    for number in range(1, entries + 1):
        for at, group in enumerate(groups):
            due = began + (number + at / len(groups)) / _PER_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            pipe = client.pipeline(transaction=False)
            for one in group:
                said = b'{"c":[{"i":0,"t":[7],"x":"%.6f"}]}' % time.perf_counter()
                pipe.xadd(said_key(one), {"d": said}, id=f"{number}-0")
                pipe.expire(said_key(one), _TTL_SECONDS)
                pipe.publish(scoped_channel(said_key(one), database), b"%d %b" % (number, said))
            await pipe.execute()


async def _follow(
    url: str, job_id: str, entries: int, late: list[float], begun: asyncio.Queue[None]
) -> None:
    """Read one stream and note how old each token is."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n"
    writer.write(head.encode())
    try:
        while b"event: running" not in await reader.readline():
            pass
        begun.put_nowait(None)
        while entries:
            line = await reader.readline()
            if line.startswith(b"data: ") and _MARK in line:
                stamp = line.partition(_MARK)[2].partition(b'"')[0]
                late.append(time.perf_counter() - float(stamp))
                entries -= 1
    finally:
        writer.close()
