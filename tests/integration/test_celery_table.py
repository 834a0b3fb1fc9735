"""docs/celery.md, row by row, with a stock client that imports nothing of ours."""

from __future__ import annotations

import gc
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, Signature, chain, chord, group
from celery.contrib.abortable import AbortableAsyncResult
from celery.exceptions import (
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    TimeoutError,
)
from kombu import compression

from common.redis.embedded_server import RedisServer
from common.redis.keys import LaneKeys, meta_key
from tests.support.lanes import LANE, RecordedLane
from tests.support.stack import ROOT, Stack, wait_until

PAGE = ROOT / "docs" / "celery.md"
ROW = re.compile(r"^\| (.+?) \| (honoured|refused|no effect|not seen) \| (.+) \|$", re.MULTILINE)
ROWS = {what: answer for what, answer, _how in ROW.findall(PAGE.read_text(encoding="utf-8"))}


@dataclass
class Bench:
    """A fleet of one worker, and a producer as anybody may have it."""

    stack: Stack
    lane: RecordedLane

    def app(self, **conf: Any) -> Celery:
        url = self.stack.redis_url
        app = Celery("producer", broker=url, backend=url, set_as_current=False)
        app.conf.update(conf)
        return app

    def send(self, value: Any, app: Celery | None = None, **options: Any) -> Any:
        """A job of the recorder; `params` and `kwargs` are its own, the rest Celery's."""
        kwargs = {"model": LANE, "input": value, "params": options.pop("params", {})}
        kwargs |= options.pop("kwargs", {})
        sent = {"kwargs": kwargs, "queue": LANE, **options}
        return (app or self.app()).send_task(sent.pop("name", "infer"), **sent)

    def runs(self, result: str, app: Celery | None = None, **options: Any) -> None:
        value = options.pop("value", result)
        assert self.send(value, app, **options).get(timeout=20) == result

    def refuses(self, match: str, app: Celery | None = None, **options: Any) -> None:
        value = uuid4().hex
        with pytest.raises(Exception, match=match):
            self.send(value, app, **options).get(timeout=20)
        assert value not in self.lane.executions()

    def hangs(self, app: Celery, **options: Any) -> None:
        with pytest.raises(TimeoutError):
            self.send("unseen", app, **options).get(timeout=1)

    def answers(self, command: str, **arguments: Any) -> str:
        control = self.app().control
        (answer,) = control.broadcast(command, arguments=arguments, reply=True, timeout=20, limit=1)
        return str(next(iter(answer.values()))["error"])


@pytest.fixture(scope="module")
def bench(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One worker for the whole page."""
    stack = Stack(embedded_redis.url, tmp_path_factory.mktemp("celery"))
    stack.redis.flushall()
    lane = RecordedLane.on(stack, max_batch=1)
    stack.worker(LANE, LANEFLEET_UNPACKED_MESSAGE_BYTES="100000")
    yield Bench(stack, lane)
    gc.collect()  # results that nobody took say goodbye to Redis, which must still be there
    stack.close()


def by_position(bench: Bench) -> None:
    for args in (("by position",), (LANE, "by position"), (LANE, "by position", {})):
        sent = bench.app().send_task("infer", args, queue=LANE)
        assert sent.get(timeout=20) == "by position"


def step(bench: Bench, app: Celery, **kwargs: Any) -> Signature:
    return app.signature("infer", kwargs={"model": LANE, **kwargs}, queue=LANE)


def callbacks(bench: Bench) -> None:
    app = bench.app()
    last = step(bench, app).set(task_id=uuid4().hex)
    bench.runs("linked", app, link=last)
    assert app.AsyncResult(last.id).get(timeout=20) == "linked"
    errback = step(bench, app).set(task_id=uuid4().hex)
    failed = bench.send("bad", app, params={"fail": "why"}, link_error=errback)
    assert app.AsyncResult(errback.id).get(timeout=20) == failed.id


def canvas(bench: Bench) -> None:
    app = bench.app()
    parts = [step(bench, app, input=n) for n in range(3)]
    assert chord(parts, step(bench, app), app=app).apply_async().get(timeout=20) == [0, 1, 2]
    assert chain(*parts[:1], step(bench, app), app=app).apply_async().get(timeout=20) == 0
    assert group(parts, app=app).apply_async().get(timeout=20) == [0, 1, 2]


def other_arguments(bench: Bench) -> None:
    bench.refuses("`temperature`.*`params`", kwargs={"temperature": 1})
    with pytest.raises(Exception, match="4 positional arguments"):
        bench.app().send_task("infer", (LANE, 1, {}, 2), queue=LANE).get(timeout=20)


def of_no_job(bench: Bench) -> None:
    for task_id in ('a "b"', "a\\b", "a\nb", "a\0b"):
        bench.refuses("a task id with quotation marks", task_id=task_id)


def same_call(bench: Bench) -> None:
    task_id, value = uuid4().hex, uuid4().hex
    for _ in range(2):
        bench.runs(value, task_id=task_id)
    wait_until(lambda: not bench.stack.waiting(LANE), 20, "the copy to be met")
    assert bench.lane.executions()[value] == 1


def another_call(bench: Bench) -> None:
    task_id, value = uuid4().hex, uuid4().hex
    bench.runs("before", task_id=task_id)
    again = bench.send(value, task_id=task_id)
    # Looked up anew each time: an AsyncResult keeps the first end that it sees, here the other's.
    found = again.app.AsyncResult
    wait_until(lambda: found(task_id).result == value, 20, "the other's result")


def priorities(bench: Bench) -> None:
    for priority in range(10):
        bench.runs(f"priority-{priority}", priority=priority)


def later(bench: Bench) -> None:
    began = time.time()
    bench.runs("later", countdown=1)
    assert time.time() - began >= 1


def expired(bench: Bench) -> None:
    with pytest.raises(TaskRevokedError, match="expired"):
        bench.send("too late", expires=-1, countdown=0.5).get(timeout=20)


def compressed(bench: Bench) -> None:
    for name in ("gzip", "zlib", "bzip2", "lzma"):
        bench.runs(f"packed-{name}", bench.app(task_compression=name))


def another_compression(bench: Bench) -> None:
    compression.register(lambda body: body[::-1], lambda body: body[::-1], "x/mirror", ["mirror"])
    bench.refuses("compression 'x/mirror' is refused", bench.app(task_compression="mirror"))
    with pytest.raises(Exception, match="larger than 100000 bytes"):
        bench.send("a" * 200_000, bench.app(task_compression="gzip")).get(timeout=20)


def limited(exception: type[Exception], name: str) -> Callable[[Bench], None]:
    def case(bench: Bench) -> None:
        with pytest.raises(exception, match=name):
            bench.send("slow", params={"sleep_ms": 300}, **{name: 0.1}).get(timeout=20)
        bench.runs("quick", **{name: 20})

    return case


def ignored(bench: Bench) -> None:
    sent, value = None, uuid4().hex
    sent = bench.send(value, ignore_result=True)
    wait_until(lambda: bench.stack.redis.exists(meta_key(sent.id)), 20, "its end")
    assert bench.lane.executions()[value] == 1
    assert 0 < bench.stack.redis.ttl(meta_key(sent.id)) <= 60


def by_stamp(bench: Bench) -> None:
    stamp = uuid4().hex
    bench.app().control.revoke_by_stamped_headers({"batch": stamp}, reply=True, timeout=20, limit=1)
    with pytest.raises(TaskRevokedError):
        bench.send("stamped", stamped_headers=["batch"], batch=stamp).get(timeout=20)
    bench.runs("other stamp", stamped_headers=["batch"], batch="kept")


def unextended(bench: Bench) -> None:
    sent = bench.send("plain", bench.app(result_extended=True))
    assert sent.get(timeout=20) == "plain"
    assert (sent.name, sent.args, sent.worker) == (None, None, None)


def untracked(bench: Bench) -> None:
    gate = bench.stack.folder / uuid4().hex
    value = uuid4().hex
    sent = bench.send(value, bench.app(task_track_started=True), params={"until": str(gate)})
    wait_until(lambda: bench.lane.executions()[value], 20, "it to run")
    assert sent.state == "PENDING"
    gate.touch()
    assert sent.get(timeout=20) == value


def revoked(bench: Bench) -> None:
    gate, app = bench.stack.folder / uuid4().hex, bench.app()
    running, waiting = uuid4().hex, uuid4().hex
    first = bench.send(running, params={"until": str(gate)})
    wait_until(lambda: bench.lane.executions()[running], 20, "it to run")
    second = bench.send(waiting)
    app.control.revoke([first.id, second.id], terminate=True)
    for one in (first, second):
        with pytest.raises(TaskRevokedError):
            one.get(timeout=20)
    gate.touch()
    bench.runs("after it")
    assert waiting not in bench.lane.executions()


def aborted(bench: Bench) -> None:
    gate, app = bench.stack.folder / uuid4().hex, bench.app()
    running = uuid4().hex
    first = bench.send(running, params={"until": str(gate)})
    wait_until(lambda: bench.lane.executions()[running], 20, "it to run")
    sent = [bench.send(f"waits-{n}") for n in range(10)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how Celery stores it
        AbortableAsyncResult(sent[-1].id, app=app).abort()
    gate.touch()
    with pytest.raises(TaskRevokedError):
        sent[-1].get(timeout=20)
    assert first.get(timeout=20) == running
    assert [one.get(timeout=20) for one in sent[:-1]] == [f"waits-{n}" for n in range(9)]
    assert "waits-9" not in bench.lane.executions()


def refused_commands(*calls: tuple[str, dict[str, Any], str]) -> Callable[[Bench], None]:
    def case(bench: Bench) -> None:
        for command, arguments, instead in calls:
            assert instead in bench.answers(command, **arguments)
        bench.runs("still served")

    return case


def prefixed(bench: Bench) -> None:
    app = bench.app(broker_transport_options={"global_keyprefix": "team:"})
    bench.hangs(app)
    assert bench.stack.redis.llen(f"team:{LANE}") == 1


def other_steps(bench: Bench) -> None:
    options = {"priority_steps": list(range(10)), "sep": ":"}
    app = bench.app(broker_transport_options=options)
    bench.runs("priority 0", app, priority=0)
    bench.hangs(app, priority=4)
    assert bench.stack.redis.llen(f"{LANE}:4") == 1


def by_rpc(bench: Bench) -> None:
    app = Celery("producer", broker=bench.stack.redis_url, backend="rpc://", set_as_current=False)
    sent = bench.send("by rpc", app)
    with pytest.raises(TimeoutError):
        sent.get(timeout=1)
    assert bench.app().AsyncResult(sent.id).get(timeout=20) == "by rpc"


CASES: dict[str, Callable[[Bench], None]] = {
    "`kwargs`": lambda bench: bench.runs("by kwargs"),
    "`args`": by_position,
    "`link`, `link_error`": callbacks,
    "`chain`, `group`, `chord`": canvas,
    "`pick`": lambda bench: bench.runs("part", value={"x": "part"}, kwargs={"pick": "/x"}),
    "two inputs": lambda bench: bench.refuses("immutable", args=("other",)),
    "other arguments": other_arguments,
    "another model's queue": lambda bench: bench.refuses("'other'", kwargs={"model": "other"}),
    "another task": lambda bench: bench.refuses("unknown task 'tasks.add'", name="tasks.add"),
    "`task_id`": lambda bench: bench.runs("mine", task_id=f"my own/{uuid4().hex}"),
    "`task_id` of no job": of_no_job,
    "`task_id` again, same call": same_call,
    "`task_id` again, another call": another_call,
    "`priority`": priorities,
    "`countdown`, `eta`": later,
    "`expires`": expired,
    "`task_compression`": compressed,
    "another compression": another_compression,
    "`serializer`": lambda bench: bench.refuses("'application/x-yaml'", serializer="yaml"),
    "`task_protocol` 1": lambda bench: bench.refuses("protocol = 2", bench.app(task_protocol=1)),
    "`time_limit`": limited(TimeLimitExceeded, "time_limit"),
    "`soft_time_limit`": limited(SoftTimeLimitExceeded, "soft_time_limit"),
    "`ignore_result`": ignored,
    "`stamped_headers`": by_stamp,
    "`shadow`, `headers`": lambda bench: bench.runs("x", shadow="other", headers={"mine": 1}),
    "`result_extended`": unextended,
    "`track_started`": untracked,
    "`revoke`": revoked,
    "`revoke_by_stamped_headers`": by_stamp,
    "`AbortableAsyncResult.abort`": aborted,
    "`rate_limit`": refused_commands(
        ("rate_limit", {"task_name": "infer", "rate_limit": "1/m"}, "lanefleet keys limit")
    ),
    "`time_limit` command": refused_commands(
        ("time_limit", {"task_name": "infer", "hard": 1}, "`time_limit`")
    ),
    "`add_consumer`": refused_commands(("add_consumer", {"queue": LANE}, "LANEFLEET_MODELS")),
    "`cancel_consumer`": refused_commands(("cancel_consumer", {"queue": LANE}, "LANEFLEET_MODELS")),
    "`pool_grow`, `autoscale`": refused_commands(
        ("pool_grow", {"n": 1}, "more workers"),
        ("pool_shrink", {"n": 1}, "more workers"),
        ("autoscale", {"max": 3, "min": 1}, "more workers"),
        ("pool_restart", {}, "more workers"),
    ),
    "a queue that nobody serves": lambda bench: bench.hangs(bench.app(), queue="nobody"),
    "`global_keyprefix`": prefixed,
    "`priority_steps`, `sep`": other_steps,
    "`rpc://`": by_rpc,
}


def test_every_row_has_its_case() -> None:
    assert ROWS.keys() == CASES.keys()


@pytest.mark.parametrize("what", ROWS)
def test_the_row_is_true(bench: Bench, what: str) -> None:
    CASES[what](bench)
    keys = LaneKeys.of(LANE)
    wait_until(lambda: not bench.stack.redis.zcard(keys.delayed), 20, "nothing to be left")
