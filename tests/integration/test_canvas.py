"""Celery's canvas over lanes and a stock worker, as sent by a client that knows nothing of ours."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from celery import chord, group, signature
from celery.exceptions import ChordError, TaskRevokedError
from celery.result import AsyncResult, GroupResult, result_from_tuple

from common.redis.embedded_server import RedisServer
from tests.support.canvases import CASES, FAILURES, SECONDS, Client, running_client
from tests.support.lanes import LANE
from tests.support.stack import wait_until


@pytest.fixture(scope="module")
def client(
    embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("canvas")
    with running_client(embedded_redis.url, folder) as made:
        made.worker = made.stack.worker(LANE)
        yield made


@pytest.mark.parametrize("name", CASES)
def test_a_canvas_brings_what_celery_brings(client: Client, name: str) -> None:
    make, expected = CASES[name]
    result = make(client).apply_async()
    assert result.get(timeout=SECONDS) == expected
    client.await_quiet()


@pytest.mark.parametrize("name", FAILURES)
def test_what_fails_in_a_canvas_is_raised_where_it_is_waited_for(client: Client, name: str) -> None:
    result = FAILURES[name](client).apply_async()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the types are made by the client
        result.get(timeout=SECONDS)
    assert "timed out" not in str(caught.value)
    assert caught.type.__name__ not in ("TimeoutError", "AssertionError")
    client.await_quiet()


def test_callbacks_get_the_result_each_once(client: Client) -> None:
    key = uuid.uuid4().hex
    links = [client.task("note", key=key), client.task("note", key=key), client.infer()]
    result = client.infer("linked").apply_async(link=links)
    assert result.get(timeout=SECONDS) == "linked"
    assert client.await_noted(key, 2) == ["linked", "linked"]
    client.await_quiet()
    assert client.noted(key) == ["linked", "linked"]
    children = wait_until(lambda: AsyncResult(result.id).children, SECONDS, "children")
    assert len(children) == 3
    assert [one.get(timeout=SECONDS) for one in children] == ["linked"] * 3


def test_errbacks_of_either_style_are_called_once(client: Client) -> None:
    bad = client.infer("bad", params={"fail": "why"})
    result = bad.apply_async(link_error=[client.task("refused"), client.task("told")])
    with pytest.raises(Exception, match="why"):
        result.get(timeout=SECONDS)
    assert client.await_noted("refused", 1) == [result.id]
    assert client.await_noted("told", 1) == [f"{result.id} None"]
    client.await_quiet()
    assert client.infer("good").apply_async(link_error=client.task("refused")).get(timeout=SECONDS)
    client.await_quiet()
    assert client.noted("refused") == [result.id]


def test_an_errback_may_be_a_canvas(client: Client) -> None:
    bad = client.infer(1, params={"fail": "why"})
    steps = client.task("note", key="err-chain") | client.task("note", key="err-chain")
    counted = chord([client.task("note", key="err-chord")], client.task("note", key="err-body"))
    failed = bad.apply_async(link_error=[steps, counted])
    assert client.await_noted("err-chain", 2) == [failed.id] * 2
    assert client.await_noted("err-body", 1) == [str([failed.id])]
    body = client.task("total")
    body.link_error(client.task("note", key="err-of-body") | client.task("note", key="err-of-body"))
    failed = chord([bad.clone(), client.infer(2)], body).apply_async()
    assert client.await_noted("err-of-body", 2) == [failed.id] * 2
    client.await_quiet()


def test_an_errback_may_be_a_job(client: Client) -> None:
    bad = client.infer("bad", params={"fail": "why"})
    result = bad.apply_async(link_error=client.infer().set(task_id="errback"))
    assert AsyncResult("errback").get(timeout=SECONDS) == result.id


def test_where_it_comes_from_is_kept(client: Client) -> None:
    result = (client.infer(1) | client.infer() | client.infer()).apply_async()
    assert result.get(timeout=SECONDS) == 1
    first = result.parent.parent
    metas = [one._get_task_meta() for one in (first, result.parent, result)]
    assert [one.get("parent_id") for one in metas] == [None, first.id, result.parent.id]
    assert [[child.id for child in one["children"]] for one in metas] == [
        [result.parent.id],
        [result.id],
        [],
    ]
    assert [one.id for one, _ in first.collect(intermediate=True)] == [
        first.id,
        result.parent.id,
        result.id,
    ]


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's
def test_a_group_is_saved_and_restored(client: Client) -> None:
    result = group(client.infer(n) for n in range(3)).apply_async()
    result.save()
    restored = GroupResult.restore(result.id, app=client.app)
    assert restored.get(timeout=SECONDS) == [0, 1, 2]
    again = result_from_tuple(result.as_tuple(), app=client.app)
    assert again.get(timeout=SECONDS) == [0, 1, 2]


def test_options_of_each_step_are_honoured(client: Client) -> None:
    last = client.infer().set(task_id=f"named-{uuid.uuid4().hex}", countdown=0.5, priority=9)
    result = (client.infer(1) | last).apply_async()
    assert result.id == last.options["task_id"]
    assert result.get(timeout=SECONDS) == 1
    late = (client.infer(1) | client.infer().set(expires=-1)).apply_async()
    with pytest.raises(TaskRevokedError):
        late.get(timeout=SECONDS)
    client.await_quiet()


def test_a_revoked_part_fails_its_chord(client: Client) -> None:
    part = client.infer(1).set(task_id=f"part-{uuid.uuid4().hex}", countdown=60)
    result = chord([part, client.infer(2)], client.task("total")).apply_async()
    redis = client.stack.redis
    wait_until(lambda: redis.zcard(f"lf:lane:{LANE}:delayed"), SECONDS, "it to be parked")
    client.app.control.revoke(part.options["task_id"])
    with pytest.raises((ChordError, TaskRevokedError)):
        result.get(timeout=SECONDS)
    client.await_quiet()


def test_a_step_that_cannot_be_sent_fails_and_what_waits_for_it_too(client: Client) -> None:
    nowhere = client.app.signature("infer")  # neither a queue nor a model
    result = (client.infer(1) | nowhere | client.infer()).apply_async()
    with pytest.raises(Exception, match="needs kwargs"):
        result.get(timeout=SECONDS)
    client.await_quiet()


def test_a_signature_that_is_none_harms_nothing_else(client: Client) -> None:
    result = signature("infer", kwargs={"model": LANE, "input": 1}, app=client.app).apply_async(
        queue=LANE, link={"task": None, "no": "signature"}
    )
    assert result.get(timeout=SECONDS) == 1
    client.await_quiet()
