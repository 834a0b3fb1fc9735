"""Redis restarts, fails over, fills up, goes silent; no process exits and no job is lost."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import redis
from celery import Celery

from api.cli.fleet import free_port
from common.jobs.job import Job
from common.redis.keys import LaneKeys
from tests.support.lanes import (
    LANE,
    Feeder,
    RecordedLane,
    assert_lane_is_empty,
    await_progress,
    await_settled,
)
from tests.support.proxy import FaultyProxy
from tests.support.stack import IN_CI, Stack, redis_binary, wait_until


@dataclass
class Server:
    """A Redis on a fixed port that a test may kill, restart and reconfigure."""

    folder: Path
    options: list[str] = field(default_factory=list)
    port: int = field(default_factory=free_port)
    binary: str = field(default_factory=lambda: redis_binary("embedded")[0])
    popen: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=2)

    def start(self) -> Server:
        self.folder.mkdir(exist_ok=True)
        self.popen = subprocess.Popen(
            [
                *(self.binary, "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self.folder), "--save", "", "--logfile", "log"),
                *self.options,
            ]
        )
        wait_until(self.answers, 20, "the server")
        return self

    def answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        if self.popen:
            self.popen.send_signal(signal.SIGKILL)
            self.popen.wait()


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    made: list[Server] = []
    yield made
    for server in made:
        with contextlib.suppress(ProcessLookupError):
            server.kill()


@pytest.fixture
def stacks() -> Iterator[list[Stack]]:
    made: list[Stack] = []
    yield made
    for stack in made:
        stack.close()


def alive(stack: Stack) -> bool:
    return all(process.alive for process in stack.processes)


ALWAYS = ["--appendonly", "yes", "--appendfsync", "always"]


@pytest.mark.parametrize(
    "restarts",
    [2, pytest.param(10, marks=[pytest.mark.slow, pytest.mark.timeout(400)])],
)
def test_redis_killed_under_load_loses_nothing_with_fsync_always(
    tmp_path: Path, servers: list[Server], stacks: list[Stack], restarts: int
) -> None:
    server = Server(tmp_path / "redis", ALWAYS).start()
    servers.append(server)
    stack = Stack(server.url, tmp_path)
    stacks.append(stack)
    RecordedLane.on(stack)
    api = stack.api(LANE)
    stack.worker(LANE), stack.worker(LANE)
    feeder = Feeder(api.url, 100).start()
    for _ in range(restarts):
        await_progress(stack, 100)
        server.kill()
        time.sleep(0.5)  # how long it is away
        server.start()
        ready = time.monotonic()
        done = stack.stats(LANE).get("succeeded", 0)
        wait_until(
            lambda done=done: stack.stats(LANE).get("succeeded", 0) > done, 20, "consuming again"
        )
        print(f"consuming {time.monotonic() - ready:.2f} s after ready")
    jobs = feeder.stop()
    await_settled(stack, list(jobs), 60)
    assert stack.states(list(jobs)) == {"succeeded": len(jobs)}, "0 lost"
    assert alive(stack)
    assert_lane_is_empty(stack)


def test_a_restart_while_celery_sees_a_batch_running_ends_no_worker(
    tmp_path: Path, servers: list[Server], stacks: list[Stack]
) -> None:
    """What Celery takes for its own requests is told of the new connection."""
    server = Server(tmp_path / "redis", ALWAYS).start()
    servers.append(server)
    stack = Stack(server.url, tmp_path)
    stacks.append(stack)
    RecordedLane.on(stack)
    worker = stack.worker(LANE)
    gate = tmp_path / "gate"
    (running,) = stack.publish([Job(LANE, "long", {"until": str(gate)})])
    app = Celery("watcher", broker=stack.redis_url, backend=stack.redis_url)
    inspect = app.control.inspect(timeout=1, limit=1)
    wait_until(lambda: any((inspect.active() or {}).values()), 20, "Celery to see it")
    server.kill()
    server.start()

    def pings() -> object:
        assert worker.alive, worker.output()
        with contextlib.suppress(redis.RedisError):  # the watcher's own connection is lost too
            return inspect.ping()
        return None

    wait_until(pings, 20, "the worker to be on the bus again")
    gate.touch()
    await_settled(stack, [running], 20)
    assert stack.states([running]) == {"succeeded": 1}


def test_inspect_is_exact_again_after_a_restart(
    tmp_path: Path, servers: list[Server], stacks: list[Stack]
) -> None:
    server = Server(tmp_path / "redis", ALWAYS).start()
    servers.append(server)
    stack = Stack(server.url, tmp_path)
    stacks.append(stack)
    lane = RecordedLane.on(stack)
    stack.worker(LANE)
    (running,) = stack.publish([Job(LANE, "long", {"sleep_ms": 12_000})])
    wait_until(lambda: lane.executions(), 20, "it to run")
    server.kill()
    time.sleep(0.5)  # how long it is away
    server.start()
    waiting = stack.publish([Job(LANE, f"n{n}") for n in range(3)])
    app = Celery("watcher", broker=stack.redis_url, backend=stack.redis_url)
    inspect = app.control.inspect(timeout=1, limit=1)
    wait_until(inspect.ping, 20, "the worker to be on the bus again")
    wait_until(lambda: stack.states(waiting).get("running") == 3, 20, "the look-ahead")
    ((active,),) = inspect.active().values()
    assert active["id"] == running
    ((*reserved,),) = inspect.reserved().values()
    assert {one["id"] for one in reserved} == set(waiting)


def test_redis_killed_with_fsync_everysec_reports_what_was_lost(
    tmp_path: Path, servers: list[Server], stacks: list[Stack]
) -> None:
    options = ["--appendonly", "yes", "--appendfsync", "everysec"]
    server = Server(tmp_path / "redis", options).start()
    servers.append(server)
    stack = Stack(server.url, tmp_path)
    stacks.append(stack)
    RecordedLane.on(stack)
    api = stack.api(LANE)
    stack.worker(LANE)
    feeder = Feeder(api.url, 100).start()
    await_progress(stack, 150)
    server.kill()
    server.start()
    await_progress(stack, 50)
    jobs = feeder.stop()

    def over() -> bool:
        return not stack.states(list(jobs)).keys() - {"succeeded", "unknown"}

    wait_until(over, 60, "everything that Redis still knows to be settled")
    lost = stack.states(list(jobs)).get("unknown", 0)
    print(f"lost with everysec: {lost} of {len(jobs)}")
    assert lost <= 250, "at most what about two seconds of its fsync policy allow"
    assert alive(stack)


@pytest.mark.slow
def test_a_demoted_master_stops_nobody_and_work_goes_on_after(
    tmp_path: Path, servers: list[Server], stacks: list[Stack]
) -> None:
    master = Server(tmp_path / "a").start()
    other = Server(tmp_path / "b").start()
    servers += [master, other]
    stack = Stack(master.url, tmp_path)
    stacks.append(stack)
    RecordedLane.on(stack)
    api = stack.api(LANE)
    stack.worker(LANE)
    feeder = Feeder(api.url, 50).start()
    await_progress(stack, 30)
    other.client().replicaof("127.0.0.1", master.port)
    wait_until(
        lambda: other.client().info("replication").get("master_link_status") == "up", 20, "sync"
    )
    master.client().replicaof("127.0.0.1", other.port)
    time.sleep(2)  # how long it is a replica
    assert alive(stack)
    master.client().replicaof("NO", "ONE")
    promoted = time.monotonic()
    done = stack.stats(LANE).get("succeeded", 0)
    wait_until(lambda: stack.stats(LANE).get("succeeded", 0) > done, 20, "consuming again")
    print(f"consuming {time.monotonic() - promoted:.2f} s after promotion")
    feeder.stop()
    assert alive(stack)


def test_sentinel_fails_over_and_the_fleet_follows(
    tmp_path: Path, servers: list[Server], stacks: list[Stack]
) -> None:
    path = shutil.which("redis-server")
    if path is None:
        (pytest.fail if IN_CI else pytest.skip)("no redis-server on PATH to run Sentinel")
    master = Server(tmp_path / "a", binary=path).start()
    replica = Server(
        tmp_path / "b", ["--replicaof", f"127.0.0.1 {master.port}"], binary=path
    ).start()
    servers += [master, replica]
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds mymaster 1500\n"
        "sentinel failover-timeout mymaster 5000\n"
    )
    sentinel = subprocess.Popen([path, str(config), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        wait_until(
            lambda: replica.client().info("replication").get("master_link_status") == "up",
            10,
            "sync",
        )
        watcher = redis.Redis(port=port)
        wait_until(lambda: _replicas(watcher), 20, "sentinel to find the replica")
        stack = Stack(f"sentinel://127.0.0.1:{port}/0", tmp_path)
        stacks.append(stack)
        RecordedLane.on(stack)
        api = stack.api(LANE)
        stack.worker(LANE)
        feeder = Feeder(api.url, 50).start()
        await_progress(Stack(master.url, tmp_path), 50)
        master.kill()
        wait_until(lambda: replica.client().role()[0] == b"master", 30, "promotion")
        promoted = time.monotonic()
        direct = Stack(replica.url, tmp_path)
        done = direct.stats(LANE).get("succeeded", 0)
        wait_until(lambda: direct.stats(LANE).get("succeeded", 0) > done, 20, "consuming again")
        print(f"consuming {time.monotonic() - promoted:.2f} s after promotion")
        feeder.stop()
        assert alive(stack)
    finally:
        sentinel.kill()
        sentinel.wait()


def _replicas(watcher: redis.Redis) -> bool:
    try:
        return bool(watcher.execute_command("SENTINEL", "REPLICAS", "mymaster"))
    except redis.RedisError:
        return False


@pytest.mark.parametrize(
    ("resets", "silence_seconds"),
    [(30, 8), pytest.param(300, 30, marks=[pytest.mark.slow, pytest.mark.timeout(400)])],
)
def test_resets_and_silence_lose_nothing(
    stack: Stack, stacks: list[Stack], resets: int, silence_seconds: int
) -> None:
    proxy = FaultyProxy(stack.redis_url)
    behind = Stack(proxy.url, stack.folder, {"LANEFLEET_SOCKET_TIMEOUT_SECONDS": "2"})
    stacks.append(behind)
    RecordedLane.on(behind)
    api = behind.api(LANE)
    behind.worker(LANE), behind.worker(LANE)
    feeder = Feeder(api.url, 60).start()
    proxy.resets_left = resets
    wait_until(lambda: proxy.resets_left == 0, 180, "all resets")
    with proxy.blackhole():
        time.sleep(silence_seconds)  # the fault's length
    await_progress(behind, 50)
    jobs = feeder.stop()
    await_settled(stack, list(jobs), 60)
    print(f"{proxy.resets} resets, {len(jobs)} jobs, refused {dict(feeder.refused)}")
    assert stack.states(list(jobs)) == {"succeeded": len(jobs)}
    assert proxy.resets == resets
    assert alive(behind)
    proxy.close()


@pytest.mark.parametrize("kind", ["embedded", pytest.param("redis-server", marks=pytest.mark.slow)])
def test_at_maxmemory_the_front_refuses_and_the_workers_drain(
    tmp_path: Path, servers: list[Server], stacks: list[Stack], kind: str
) -> None:
    server = Server(tmp_path / "redis", binary=redis_binary(kind)[0]).start()
    servers.append(server)
    stack = Stack(server.url, tmp_path)
    stacks.append(stack)
    lane = RecordedLane.on(stack)
    api = stack.api(LANE)
    ids = stack.publish([Job(LANE, f"n{n}") for n in range(10_000)])
    # Well below what is used: a client that leaves gives some memory back.
    used = server.client().info("memory")["used_memory"]
    server.client().config_set("maxmemory", used * 9 // 10)
    feeder = Feeder(api.url, 20).start(threads=1)
    wait_until(lambda: sum(feeder.refused.values()) >= 3, 20, "refusals")
    assert feeder.stop() == {}, "nothing was taken"
    assert set(feeder.refused) <= {429, 503}
    stack._start("worker", ["-m", "worker"], LANE, {})
    await_settled(stack, ids, 90)
    assert stack.states(ids) == {"succeeded": 10_000}
    executions = lane.executions()
    assert len(executions) == 10_000
    assert set(executions.values()) == {1}, "0 doubled"
    assert server.client().hlen(LaneKeys.of(LANE).unacked) == 0
    assert alive(stack)


def test_a_worker_without_redis_says_so_and_lives(
    tmp_path: Path, servers: list[Server], stacks: list[Stack]
) -> None:
    server = Server(tmp_path / "redis").start()
    servers.append(server)
    stack = Stack(server.url, tmp_path)
    stacks.append(stack)
    port = free_port()
    RecordedLane.on(stack, LANEFLEET_WORKER_HEALTH_PORT=str(port))
    worker = stack.worker(LANE)
    health = f"http://127.0.0.1:{port}/health"
    assert httpx.get(health).json()["status"] == "ok"
    assert "lanefleet_worker_jobs_total" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
    server.kill()
    wait_until(lambda: httpx.get(health).status_code == 503, 20, "the worker to notice")
    server.start()
    wait_until(lambda: httpx.get(health).status_code == 200, 20, "the worker to be well again")
    assert worker.alive
